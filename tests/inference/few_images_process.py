"""One image for two processes: evaluated, extracted, seen by the Inception network.

Run by test_few_images.py: TOKENIZER IMAGES FOLDER.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality import tokenizer_networks
from lightningdit_jax.inference.quality.features import ImagesInMemory
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.multihost import initialize
from tests import tiny
from tests.inference import tiny_inception


def main(tokenizer: str, images: str, folder: str) -> None:
    initialize()
    assert jax.process_count() == 2
    numbers = run(tokenizer, images, pathlib.Path(folder))
    pathlib.Path(folder, f"numbers{jax.process_index()}.json").write_text(json.dumps(numbers))


class Distance(nnx.Module):
    """Stands in for LPIPS."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self.scale[...] * jnp.abs(a - b).mean((1, 2, 3))


def use_distance(monkeypatch) -> None:
    """The checkpoint of LPIPS named "distance" is the stand-in."""
    load = tokenizer_networks.load_functional

    def load_stand_in(path, mesh, **options):
        if path != "distance":
            return load(path, mesh, **options)
        graphdef, params = nnx.split(Distance(), nnx.Param)
        return Loaded(graphdef, nnx.to_pure_dict(params), {"kind": "lpips", "step": 0})

    monkeypatch.setattr(tokenizer_networks, "load_functional", load_stand_in)
    monkeypatch.setattr(tokenizer_networks, "check_kind", lambda path, kind: None)


def run(tokenizer: str, images: str, folder: pathlib.Path) -> dict:
    """The numbers of every job that goes over images, here and in two processes alike."""
    config = tiny.config(
        "digits_vavae",
        data__source="folder",
        data__path=images,
        extract__path=str(folder / "latents"),
        extract__checkpoint=str(tokenizer),
        extract__batch_size=8,
        evaluate__batch_size=8,
        evaluate__split="",
        evaluate__lpips="distance",
    )
    with pytest.MonkeyPatch.context() as patch:
        use_distance(patch)
        numbers = evaluate(config, str(folder))
    extract(config, str(folder))
    image = np.full((1, 16, 16, 3), 200, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        tiny_inception.use(patch)
        network = InceptionNetwork("0", 8, make_mesh())
    pool = network.features(ImagesInMemory(image), 1)["pool"]
    moments = network.moments(ImagesInMemory(image), 1, ["pool"])["pool"]
    return numbers | {"pool": pool.tolist(), "count": moments.count, "mean": moments.mean.tolist()}


if __name__ == "__main__":
    main(*sys.argv[1:])
