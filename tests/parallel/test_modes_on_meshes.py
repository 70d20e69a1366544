"""Extraction, sampling and evaluation give the same on every mesh, from the same checkpoints."""

import numpy as np
import pytest

from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.training.run import train
from tests import tiny

pytestmark = pytest.mark.slow

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tokenizer, its latents and a generator."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = tiny.config("digits_vavae", extract__path=str(folder / "latents"))
    train(tokenizer, str(folder / "tokenizer"))
    extract(tokenizer, str(folder / "tokenizer"))
    generator = tiny.config(
        "digits_dit",
        data__path=str(folder / "latents"),
        model__input_size=8,
        model__hidden_size=96,
        model__num_heads=8,
        train__num_steps=2,
    )
    train(generator, str(folder / "generator"))
    return folder


def results(trained, folder, sizes):
    """Latents, samples and metrics on a mesh."""
    mesh = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), sizes))
    tokenizer = tiny.config(
        "digits_vavae",
        extract__path=str(folder / "latents"),
        extract__checkpoint=str(trained / "tokenizer"),
        **mesh,
    )
    latents = LatentShards(extract(tokenizer, str(folder)))
    generator = tiny.config(
        "digits_dit",
        sample__checkpoint=str(trained / "generator"),
        sample__tokenizer=str(trained / "tokenizer"),
        sample__num_samples=12,
        sample__num_steps=3,
        **mesh,
    )
    sample(generator, str(folder))
    every = np.arange(len(latents))
    return (
        latents.read(every, every % 2 == 0),
        np.load(folder / "samples.npz")["arr_0"],
        evaluate(tokenizer, str(trained / "tokenizer")),
    )


@pytest.fixture(scope="module")
def reference(trained, tmp_path_factory):
    return results(trained, tmp_path_factory.mktemp("reference"), MESHES[0])


@pytest.mark.parametrize("sizes", MESHES[1:])
def test_same_on_every_mesh(trained, reference, tmp_path, sizes):
    latents, images, metrics = results(trained, tmp_path, sizes)
    np.testing.assert_allclose(latents, reference[0], rtol=1e-4, atol=1e-5)
    assert np.abs(images.astype(int) - reference[1]).max() <= 1  # a pixel may round the other way
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    assert numbers
    for name, value in numbers.items():
        np.testing.assert_allclose(value, reference[2][name], rtol=1e-4, err_msg=name)
