"""From a folder of images by Stable Diffusion's VAE to samples, through the jobs, on 8 devices.

The autoencoder is testdata/diffusers_vae_groups.safetensors, see tests/convert/test_diffusers.py.
The images are five, of one class, fewer than any batch.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.data.latents import LatentShards, load_stats
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.reconstruct import posterior_sample
from lightningdit_jax.inference.sampling.fitting import GeneratorMeaning
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.opening import load_companions
from lightningdit_jax.inference.sampling.sampler import initial_noise
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.pixels import to_model_range, to_uint8
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.run import train
from tests import golden, tiny
from tests.convert.test_diffusers import CONFIG

pytestmark = pytest.mark.xdist_group(__name__)

SIDE, MULTIPLIER = 16, 0.18215


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """hub, diffusers' folder; vae, converted; images, a flat folder of 16 x 20 pixels."""
    folder = tmp_path_factory.mktemp("sdvae")
    hub, images = folder / "hub", folder / "images"
    hub.mkdir()
    images.mkdir()
    weights = load_file(golden.GOLDEN.parent / "diffusers_vae_groups.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in weights.items() if "weights." in k}
    save_file(weights, hub / "diffusion_pytorch_model.safetensors")
    config = CONFIG | {"shift_factor": None, "scaling_factor": MULTIPLIER}
    (hub / "config.json").write_text(json.dumps(config))
    convert_files([str(hub)], str(folder / "vae"), say=str)
    for i, pixels in enumerate(pictures()):
        wide = np.pad(pixels, ((0, 0), (2, 2), (0, 0)))  # cropped away
        Image.fromarray(wide).save(images / f"{i}.png")
    return folder


def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)


def extraction(folder, **changes):
    return tiny.config(
        "vavae_f16d32",
        **{
            "compute__dtype": "float32",
            "data__path": str(folder / "images"),
            "extract__checkpoint": str(folder / "vae"),
            "extract__path": str(folder / "latents"),
            "extract__resolution": SIDE,
        }
        | changes,
    )


@pytest.fixture(scope="module")
def latents(folder):
    return LatentShards(extract(extraction(folder), ""))


@pytest.fixture(scope="module")
def generator(folder, latents):
    config = tiny.config(
        "dit_xl_sdvae",
        compute__dtype="float32",
        model__depth=2,
        model__hidden_size=16,
        model__num_heads=2,
        model__input_size=SIDE // 2,
        model__num_classes=1,
        data__path=str(latents.folder),
        data__flip=False,
        optimizer__learning_rate=0.02,
        train__num_steps=3,
        train__batch_size=16,
        train__log_every_steps=1,
        train__ema_decay=0.0,
        sample__tokenizer=str(folder / "vae"),
        sample__num_samples=3,
        sample__solver="euler",
        sample__num_steps=2,
        sample__cfg_scale=3.0,
        sample__cfg_interval_start=0.0,
    )
    train(config, str(folder / "generator"))
    return config


def test_latents_are_as_the_autoencoder_makes_them(folder, latents):
    """Neither scaled nor normalized: crops of a side that is not the nominal one."""
    vae = ldj.load(str(folder / "vae"))
    assert vae.resolution == 32 and latents.shape == (8, 8, 4) and len(latents) == 5
    assert not latents.labels.any() and latents.class_names == ("images",)
    index = np.arange(5)
    images = to_model_range(jax.numpy.asarray(pictures()))
    for flipped, x in enumerate((images, images[:, :, ::-1])):
        want = posterior_sample(vae.encode(x), index, 0, flipped)
        got = latents.read(index, np.full(5, bool(flipped)))
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_generator_learns_them_times_the_multiplier(folder, latents, generator):
    """At the first step it says 0, so its squared error is 1 + the mean square of its latents."""
    meta = read_meta(find_checkpoint(str(folder / "generator")))
    assert meta["latents"] == {"mean": None, "std": None, "multiplier": MULTIPLIER}
    first = (folder / "generator" / "metrics.jsonl").read_text().splitlines()[0]
    square = np.square(latents.read(np.arange(5), np.zeros(5, bool))).mean()
    want = 1 + MULTIPLIER**2 * square
    error = 5 * np.sqrt(2 / (16 * 8 * 8 * 4))  # of the noise
    assert json.loads(first)["mse"] == pytest.approx(want, abs=error)
    assert square > 4 * error, "an error that hides the multiplier"


@pytest.mark.slow
def test_samples_are_decoded_from_latents_over_the_multiplier(folder, generator, capsys):
    """One step of Euler, guided by the null class of the only class, against its formula."""
    capsys.readouterr()
    sample(generator, str(folder / "generator"))
    assert "scaled" not in capsys.readouterr().out
    with np.load(folder / "generator" / "samples.npz") as samples:
        images, labels = samples["arr_0"], samples["arr_1"]
    assert not labels.any() and images.shape == (3, SIDE, SIDE, 3)
    dit, vae = ldj.load(str(folder / "generator")), ldj.load(str(folder / "vae"))
    x = np.asarray(initial_noise(0, np.arange(3, dtype=np.uint32), (8, 8, 4)))
    v, null = (np.array(dit(x, np.zeros(3, np.float32), np.full(3, y))) for y in (0, 1))
    assert np.abs(v - null).max() > 1e-3
    v[..., :3] = null[..., :3] + 3 * (v[..., :3] - null[..., :3])
    want = to_uint8(vae.decode((x + v) / MULTIPLIER))
    np.testing.assert_allclose(images.astype(int), want, atol=1)
    unscaled = np.asarray(to_uint8(vae.decode(x + v))).astype(int)
    assert np.abs(images.astype(int) - unscaled).mean() > 4


@pytest.mark.slow
def test_a_generator_converted_with_another_multiplier_is_said(generator, capsys):
    """It was given none; what made its latents nobody knows, what the tokenizer says it does."""
    architecture = tiny.dit_config(input_size=8, in_channels=4, num_classes=1)
    mesh = make_mesh(devices=jax.devices()[:1])
    said = "its latents are scaled x * 0.18215, the generator's are x * 1; unless"
    for multiplier, made_by in ((1.0, None), (MULTIPLIER, None), (1.0, "a training's record")):
        scaling = LatentScaling(multiplier=multiplier)
        capsys.readouterr()
        load_companions(generator, mesh, GeneratorMeaning(architecture, Flow(), scaling), made_by)
        assert (said in capsys.readouterr().out) == (multiplier == 1 and made_by is None)


@pytest.mark.slow
def test_images_of_another_side(folder, latents, tmp_path):
    """The side is what latents were made with; of what it is no multiple, it is refused."""
    with pytest.raises(ValueError, match="made otherwise: resolution 16, now 32"):
        extract(extraction(folder, extract__resolution=0), "")
    with pytest.raises(ValueError, match=r"extract.resolution is 15; expected a multiple of 2"):
        extract(extraction(folder, extract__resolution=15), "")
    evaluate(extraction(folder, evaluate__batch_size=8), str(tmp_path))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["of"]["settings"]["resolution"] == SIDE and found["num_images"] == 5


def test_one_image_has_statistics(folder, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(pictures()[0]).save(tmp_path / "images" / "0.png")
    changes = {"data__path": str(tmp_path / "images"), "extract__path": str(tmp_path / "latents")}
    shards = LatentShards(extract(extraction(folder, **changes), ""))
    numbers = shards.read(np.arange(1), np.zeros(1, bool)).reshape(-1, 4)
    stats = load_stats(tmp_path / "latents")
    np.testing.assert_allclose(stats.mean, numbers.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.std, numbers.std(0, ddof=1), rtol=1e-5)
