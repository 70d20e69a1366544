"""What files and checkpoints say of themselves is compared before any weights are read."""

import numpy as np
import pytest

from lightningdit_jax.assembly import loading
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.latent_scaling import LatentScaling
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_generator(
        folder / "dit",
        random_generator(),
        flow=Flow(),
        scaling=LatentScaling(),
        class_names=["cat", *"123456789"],
    )
    save_generator(
        folder / "wide",
        random_generator(tiny.dit_config(in_channels=4)),
        flow=Flow(),
        scaling=LatentScaling(),
    )
    save_tokenizer(folder / "vae")
    tiny.write_latents(folder / "latents", count=10)
    np.savez(folder / "reference.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    np.savez(folder / "samples.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    return folder


@pytest.fixture
def unread(monkeypatch):
    """No array of a checkpoint may be read."""

    def refuse(*_, **__):
        raise AssertionError("weights were read first")

    monkeypatch.setattr(loading, "read_arrays", refuse)
    monkeypatch.setattr(loading, "read_companion", refuse)


NO_FILE = {"evaluate__metric": "fid", "evaluate__reference": "none.npz"}
JUDGED = {"evaluate__metric": "fid", "evaluate__reference": "reference.npz"}
CASES = {
    "unknown class": (sample, {"sample__labels": "dog"}, "unknown class 'dog'"),
    "class out of range": (sweep, {"sample__labels": "12"}, "labels reach from 12 to 12"),
    "guidance": (sample, {"sample__ig_scale": 2.0}, "has no second head to guide"),
    "tokenizer": (sample, {"sample__tokenizer": "none"}, "no checkpoint at .*none"),
    "kind": (sample, {"sample__tokenizer": "dit"}, "dit holds a lightningdit; expected a token"),
    "channels": (sample, {"sample__checkpoint": "wide"}, "latents of 4 channels, the tokenizer"),
    "weak": (sample, {"sample__weak_checkpoint": "wide"}, "wide has in_channels 4, the gener"),
    "no metric's file": (sweep, NO_FILE | {"evaluate__inception": "vae"}, "holds a vavae; exp"),
    "no network": (sweep, NO_FILE | {"evaluate__inception": "none"}, "no checkpoint at .*none"),
    "distances": (evaluate, JUDGED | {"evaluate__networks": ("vae",)}, "vae holds a vavae, in wh"),
    "digits": (sweep, {"evaluate__metric": "digits"}, "but the images are of 10 classes: cat"),
    "seeds": (
        evaluate,
        NO_FILE | {"evaluate__inception": "none", "evaluate__seeds": (1, 2)},
        "no checkpoint at .*none",
    ),
    "seeds' labels": (
        evaluate,
        {"evaluate__metric": "digits", "evaluate__seeds": (1,), "sample__labels": "-3"},
        "labels reach from -3",
    ),
}
OF_TOKENIZERS = {
    "LPIPS": (evaluate, {"evaluate__lpips": "dit"}, "holds a lightningdit; expected a lpips"),
    "Inception": (evaluate, {"evaluate__inception": "none"}, "no checkpoint at .*none"),
    "images": (extract, {"data__source": "folder", "data__path": "none"}, "none: no such folder"),
    "features": (extract, {"extract__features": "dit"}, "extract.features: .* holds a lightning"),
    "evaluated images": (
        evaluate,
        {"data__source": "folder", "data__path": "none"},
        "none: no such folder",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_of_a_generator(folder, unread, monkeypatch, tmp_path, case):
    monkeypatch.chdir(folder)
    job, changes, message = CASES[case]
    given = {"sample__checkpoint": "dit", "sample__tokenizer": "vae", "sample__num_samples": 2}
    config = tiny.config("digits_dit", **given | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        job(config, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("case", OF_TOKENIZERS)
def test_of_a_tokenizer(folder, unread, monkeypatch, tmp_path, case):
    monkeypatch.chdir(folder)
    job, changes, message = OF_TOKENIZERS[case]
    config = tiny.config("digits_vavae", extract__checkpoint="vae", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        job(config, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (JUDGED | {"evaluate__inception": "none"}, "no checkpoint at .*none"),
        ({"sample__tokenizer": "dit"}, "dit holds a lightningdit; expected a token"),
        ({"sample__labels": "10"}, "labels reach from 10 to 10"),
    ],
)
def test_within_a_training(folder, unread, monkeypatch, changes, message):
    monkeypatch.chdir(folder)
    given = {"data__path": "latents", "sample__tokenizer": "vae", "train__evaluate_every_steps": 2}
    config = tiny.config("digits_dit", **given | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_training_evaluator(config)


def test_a_forgotten_tokenizer_is_named_where_the_latents_tell_it(folder, tmp_path):
    save_tokenizer(tmp_path / "tok" / "checkpoints" / "0")
    tiny.write_latents(tmp_path / "tok" / "latents", count=2)
    data = {"config": {"data": {"path": str(tmp_path / "tok" / "latents")}}}
    dit = random_generator()
    save_generator(tmp_path / "dit", dit, flow=Flow(), scaling=LatentScaling(), **data)
    config = tiny.config("dit_xl", sample__checkpoint=str(tmp_path / "dit"))
    with pytest.raises(ValueError, match=rf"tokenizer's checkpoint, {tmp_path / 'tok'}$"):
        sample(config, str(tmp_path / "w"))
