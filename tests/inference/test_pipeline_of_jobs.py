"""Tokenizer, latents, generator, samples, evaluation on a few digits, in one process."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import lightningdit_jax as ldj
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.latents import LatentShards, load_stats
from lightningdit_jax.inference.evaluators import evaluate
from lightningdit_jax.inference.extract import extract
from lightningdit_jax.inference.reconstruct import posterior_sample, to_model_range
from lightningdit_jax.inference.sample import sample
from lightningdit_jax.training.run import train
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def tokenizer(folder):
    config = tiny.config("digits_vavae", extract__path=str(folder / "latents"))
    train(config, str(folder / "tokenizer"))
    return config


@pytest.fixture(scope="module")
def latents(folder, tokenizer):
    return extract(tokenizer, str(folder / "tokenizer"))


@pytest.fixture(scope="module")
def generator(folder, latents):
    config = tiny.config(
        "digits_dit",
        data__path=str(latents),
        model__input_size=8,
        sample__tokenizer=str(folder / "tokenizer"),
        sample__num_samples=30,
        sample__num_steps=3,
    )
    train(config, str(folder / "generator"))
    return config


def test_one_row_per_image_in_order(latents):
    digits, shards = Digits("test", 16), LatentShards(latents)
    assert len(shards) == len(digits) == 355  # 355 is no multiple of the batch of 40
    np.testing.assert_array_equal(shards.labels, digits.labels)
    assert len(list(latents.glob("latents_rank00_shard*.safetensors"))) == 4
    assert load_stats(latents).mean.shape == (8,)


def test_latents_are_posterior_samples_by_index(folder, tokenizer, latents):
    vae = ldj.load(str(folder / "tokenizer"))
    digits, shards = Digits("test", 16), LatentShards(latents)
    index = np.array([100, 7, 354])
    images = np.stack([np.asarray(digits.image(int(i))) for i in index])
    for flipped, x in enumerate((images, images[:, :, ::-1])):
        posterior = vae.encode(to_model_range(jax.numpy.asarray(x)))
        want = posterior_sample(posterior, index, tokenizer.seed, flipped)
        got = shards.read(index, np.full(3, bool(flipped)))
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_extraction_refuses_a_folder_with_latents(folder, tokenizer, latents):
    with pytest.raises(ValueError, match="already holds latents"):
        extract(tokenizer, str(folder / "tokenizer"))


def test_tokenizer_evaluation(folder, tokenizer):
    numbers = evaluate(tokenizer, str(folder / "tokenizer"))
    assert numbers["num_images"] == 50 and 0 < numbers["reconstruction_psnr"] < 60
    picture = np.asarray(Image.open(folder / "tokenizer" / "reconstructions.png"))
    original = np.asarray(Digits("test", 16).image(0))
    np.testing.assert_array_equal(picture[2:66:4, 2:66:4], original)


def test_samples_and_their_description(folder, generator):
    path = sample(generator, str(folder / "generator"))
    archive = np.load(path)
    assert archive["arr_0"].shape == (30, 16, 16, 3) and archive["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(archive["arr_1"], np.arange(30) % 10)
    described = json.loads((folder / "generator" / "samples.json").read_text())
    assert described["evaluations"] == 2 and described["checkpoint_step"] == 6
    numbers = evaluate(generator, str(folder / "generator"))
    assert 0 <= numbers["recognised_share"] <= 1 and numbers["classifier_accuracy"] > 0.97


def test_loaded_generator_is_the_average(folder, generator):
    averaged = ldj.load(str(folder / "generator"))
    last = ldj.load(str(folder / "generator"), use_ema=False)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 8))
    t, y = np.array([0.2, 0.7], np.float32), np.array([1, 10])
    assert averaged(x, t, y).shape == x.shape
    assert not np.allclose(averaged.blocks.mlp.w3.kernel[...], last.blocks.mlp.w3.kernel[...])


def test_samples_of_the_wrong_tokenizer_are_refused(folder, generator):
    wrong = tiny.replaced(generator, "sample", tokenizer=str(folder / "generator"))
    with pytest.raises(ValueError, match="holds a lightningdit; expected a vavae"):
        sample(wrong, str(folder / "generator"))


def test_another_architecture_in_the_workdir_is_refused(folder, generator, latents):
    other = tiny.config("digits_dit", data__path=str(latents), model__input_size=8, model__depth=3)
    with pytest.raises(ValueError, match=r"another architecture: found depth 2 .* says 3"):
        train(other, str(folder / "generator"))


def test_missing_checkpoint_is_named(folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        ldj.load(str(folder / "nothing"))
