"""Nothing that is handed out holds values that are not finite: pixels, latents, numbers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.evaluation.frechet import Gaussian
from lightningdit_jax.evaluation.reference_moments import ReferenceMoments, moments_from_npz
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality import job as quality_job
from lightningdit_jax.inference.quality import tokenizer_networks
from lightningdit_jax.inference.quality.features import ImagesInMemory
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metric import Judgment
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.golden import GOLDEN
from tests.inference import tiny_inception
from tests.inference.tiny_generator import random_generator
from tests.inference.tiny_tokenizer import save_tokenizer

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)


def damaged_tokenizer(folder, name):
    """A tokenizer of which one weight is NaN."""

    def change(params):
        params[name]["bias"][0] = np.nan

    return save_tokenizer(folder / name, change=change)


@pytest.fixture(scope="module")
def cannot_decode(tmp_path_factory):
    return damaged_tokenizer(tmp_path_factory.mktemp("damaged"), "post_quant_conv")


@pytest.fixture(scope="module")
def cannot_encode(tmp_path_factory):
    return damaged_tokenizer(tmp_path_factory.mktemp("damaged"), "quant_conv")


@pytest.mark.slow
def test_pixels_of_a_damaged_tokenizer_are_no_samples(cannot_decode):
    """They used to be black pictures: NaN clamped to 0."""
    vae = ldj.load(str(cannot_decode))
    with pytest.raises(
        FloatingPointError,
        match=r"pixels of sample 0, sample 1 are not finite: the weights of the tokenizer .*, in "
        r"post_quant_conv/bias",
    ):
        ldj.generate(random_generator(), vae, [1, 2], num_steps=3, latent_stats="none")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_not_converted(tmp_path, value):
    tensors = load_file(GOLDEN / "lightningdit_default.weights.safetensors")
    tensors["final_layer.linear.weight"][0, 0] = value
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"NaN or infinities:\s+final_layer/linear/kernel"):
        convert_files([str(tmp_path / "x.safetensors")], str(tmp_path / "out"), say=str)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pixels_that_overflow_are_told_from_damage(tmp_path):
    huge = ldj.LatentScaling([0.0] * 8, [3e38] * 8)
    vae = ldj.load(str(save_tokenizer(tmp_path / "tokenizer")))
    with pytest.raises(FloatingPointError, match=r"are finite, but too large .* statistics"):
        ldj.generate(random_generator(), vae, [1], num_steps=3, latent_stats=huge)


def extraction(folder, tokenizer, **changes):
    return tiny.config(
        "digits_vavae",
        extract__path=str(folder),
        extract__checkpoint=str(tokenizer),
        **{"data__flip": False, **changes},
    )


def test_no_shard_of_a_damaged_tokenizer(cannot_encode, tmp_path):
    config = extraction(tmp_path / "latents", cannot_encode)
    with pytest.raises(
        FloatingPointError,
        match=r"latents of digit 0, digit 1, digit 2 and 37 more are not finite: the weights of "
        r"the tokenizer .*, in quant_conv/bias",
    ):
        extract(config, str(tmp_path))
    assert not list((tmp_path / "latents").glob("*.safetensors"))


def test_latents_that_their_type_cannot_hold(tmp_path):
    def change(params):
        params["quant_conv"]["bias"][0] = 1e5  # beyond float16

    tokenizer = save_tokenizer(tmp_path / "tokenizer", change=change)
    config = extraction(tmp_path / "half", tokenizer, extract__dtype="float16")
    with pytest.raises(FloatingPointError, match=r"float16 cannot hold them; set --config.extract"):
        extract(config, str(tmp_path))
    full = extraction(tmp_path / "full", tokenizer)
    assert len(LatentShards(extract(full, str(tmp_path)))) == 355


def test_reconstructions_of_a_damaged_tokenizer_have_no_score(cannot_decode, tmp_path):
    config = extraction("", cannot_decode)
    with pytest.raises(FloatingPointError, match=r"the reconstructions of digit 0, .* tokenizer"):
        evaluate(config, str(tmp_path))
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_no_measurement_are_not_written(tmp_path, monkeypatch, value):
    numbers = {"reconstruction_psnr": 20.0, "reconstruction_ssim": value}
    monkeypatch.setattr(quality_job, "evaluate_tokenizer", lambda *_: (Judgment(numbers), {}, None))
    with pytest.raises(FloatingPointError, match=r"reconstruction_ssim is (nan|inf)"):
        evaluate(tiny.config("digits_vavae"), str(tmp_path))
    assert not (tmp_path / "evaluation.json").exists()
    numbers |= {"reconstruction_ssim": 1.0, "reconstruction_psnr": np.inf}  # unchanged images
    evaluate(tiny.config("digits_vavae"), str(tmp_path))
    assert json.loads((tmp_path / "evaluation.json").read_text())["reconstruction_ssim"] == 1.0


def test_features_of_damaged_weights_are_no_features(monkeypatch):
    tiny_inception.use(monkeypatch)
    network = InceptionNetwork("0", 8, make_mesh())
    images = ImagesInMemory(np.zeros((11, 16, 16, 3), np.uint8))
    assert np.isfinite(network.features(images, 11)["pool"]).all()
    network._params["kernel"] = network._params["kernel"].at[3, 3].set(np.nan)
    with pytest.raises(FloatingPointError, match=r"features of image 0, .* of Inception .* kernel"):
        network.features(images, 11)


def test_a_network_beside_the_tokenizer_may_be_damaged_too(tmp_path, monkeypatch):
    def broken(loaded, function, mesh):
        return lambda *images: np.nan * images[0].astype(float).mean(axis=(1, 2, 3))

    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    monkeypatch.setattr(tokenizer_networks, "_compiled", broken)
    load = tokenizer_networks.load_functional
    monkeypatch.setattr(
        tokenizer_networks,
        "load_functional",
        lambda path, mesh, **options: load(str(tokenizer), mesh),
    )
    monkeypatch.setattr(tokenizer_networks, "check_kind", lambda path, kind: None)
    config = tiny.replaced(extraction("", tokenizer), "evaluate", lpips="LPIPS")
    with pytest.raises(FloatingPointError, match=r"the outputs of LPIPS of digit 0, .* checkpoint"):
        evaluate(config, str(tmp_path))


def test_a_reference_that_is_not_finite_is_named(tmp_path):
    good, bad = (Gaussian(np.zeros(3), np.eye(3) * x) for x in (1, np.nan))
    np.savez(tmp_path / "ref.npz", **ReferenceMoments(good, bad).to_arrays())
    with pytest.raises(ValueError, match=r"ref\.npz: mu_s, sigma_s hold values that are not fin"):
        moments_from_npz(str(tmp_path / "ref.npz"))
