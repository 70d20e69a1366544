"""Rows and statistics of the release's dataset of latents."""

import pathlib
import shutil
import tempfile
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.make_golden.registry import Case, Made, case


@case("latents_dataset")
def latents_dataset(case: Case) -> Made:
    config, folder = case.config, case.config["dir"]
    out: Made = {}
    with tempfile.TemporaryDirectory() as scratch:
        # A folder without statistics, which the dataset then computes and stores.
        for file in config["files"]:
            shutil.copy(case.folder / folder / file, scratch)
        for name, multiplier in config["latent_multiplier"].items():
            data = dataset(scratch, config["latent_norm"][name], multiplier)
            rows = [row(data, *which) for which in zip(case.inputs["index"], case.inputs["flip"])]
            latents, labels = zip(*rows)
            out |= {name: torch.stack(latents), "out.label": torch.stack(labels)}
        stats = torch.load(pathlib.Path(scratch) / "latents_stats.pt", weights_only=True)
    shards = [case.read(f"{folder}/{file}")["latents"] for file in config["files"]]
    exact = torch.cat(shards).double().transpose(0, 1).flatten(1)
    return out | {
        "out.mean": stats["mean"],
        "out.std": stats["std"],
        "out.mean64": exact.mean(1).float(),
        "out.std64": exact.std(1).float(),
        f"{folder}/latents_stats.pt": stats,
    }


def dataset(folder: str, latent_norm: bool, latent_multiplier: float) -> Any:
    """The release's, with the rows of its statistics in order."""
    from datasets.img_latent_dataset import ImgLatentDataset

    in_order = mock.patch.object(np.random, "choice", lambda n, size, replace: np.arange(size))
    with in_order:
        return ImgLatentDataset(folder, latent_norm, latent_multiplier)


def row(data: Any, index: torch.Tensor, flip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent and its label; the flipped one is taken where the draw is at most a half."""
    with mock.patch.object(np.random, "uniform", lambda low, high: 1.0 - flip.item()):
        return data[index.item()]
