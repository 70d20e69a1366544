"""Kinds of models that the package does not have, through jobs that know none of them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.assembly.alignment import check_alignment
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.assembly.registry import MODELS, Role, abstract_model
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.sampler import initial_noise
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.tokenizer import Tokenizer
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training.job import make_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from tests import tiny
from tests.assembly import toy_models
from tests.inference.tiny_generator import save_generator


@pytest.fixture
def tokenizer(monkeypatch, tmp_path):
    """A checkpoint of the toy tokenizer, and its matrix."""
    toy_models.register(monkeypatch)
    return toy_models.convert(tmp_path, "patch_tokenizer")


def digits(count):
    images = Digits("test", toy_models.SIDE)
    return np.stack([np.asarray(images.image(i)) for i in range(count)])


def test_a_new_tokenizer_makes_latents_and_is_evaluated(tokenizer, tmp_path, monkeypatch):
    path, matrix = tokenizer
    chex.clear_trace_counter()
    # Each job compiles once for all of its batches, the last of which are short: extraction encodes
    # an image and its mirror image, evaluation the image.
    encode = chex.assert_max_traces(toy_models.PatchTokenizer.encode, 2 + 1)
    monkeypatch.setattr(toy_models.PatchTokenizer, "encode", encode)
    config = tiny.config(
        "digits_vavae", extract__checkpoint=path, extract__path=str(tmp_path / "latents")
    )
    shards = LatentShards(extract(config, ""))
    images, indices = digits(50), np.arange(50)
    for flipped, shown in ((False, images), (True, images[:, :, ::-1])):
        want = toy_models.patches(shown / np.float32(127.5) - 1) @ matrix
        got = shards.read(indices, np.full(50, flipped))
        np.testing.assert_allclose(got, want, atol=1e-4)
    numbers = evaluate(config, str(tmp_path))
    rebuilt = np.minimum(images.astype(int) + toy_models.BRIGHTER, 255)
    errors = np.square(rebuilt - images.astype(int)).mean((1, 2, 3))
    want = (10 * np.log10(255**2 / errors)).mean()
    assert numbers["reconstruction_psnr"] == pytest.approx(want, abs=1e-6)


def test_a_new_tokenizer_decodes_samples(tokenizer, tmp_path):
    """A fresh generator's velocity is 0: what is decoded is the noise, scaled back."""
    path, matrix = tokenizer
    architecture = tiny.dit_config(input_size=8, in_channels=12)
    scaling = LatentScaling((0.1,) * 12, (0.3,) * 12)
    dit = LightningDiT(architecture, rngs=nnx.Rngs(0))
    save_generator(tmp_path / "generator", dit, flow=Flow(), scaling=scaling)
    config = tiny.config(
        "digits_dit",
        sample__checkpoint=str(tmp_path / "generator"),
        sample__tokenizer=path,
        sample__num_samples=10,
        sample__num_steps=2,
        sample__cfg_scale=1.0,
        sample__solver="euler",
    )
    sample(config, str(tmp_path))
    noise = np.asarray(initial_noise(config.seed, jnp.arange(10), (8, 8, 12)))
    decoded = toy_models.pixels((noise * 0.3 + 0.1) @ matrix.T) * 127.5 + toy_models.BRIGHTER
    images = np.load(tmp_path / "samples.npz")["arr_0"]
    want = np.clip(decoded + 128, 0, 255)
    assert np.abs(images + 0.5 - want).max() <= 0.5 + 1e-3  # truncated

    vae = ldj.load(path)
    assert isinstance(vae, Tokenizer) and vae.embed_dim == 12
    options = {"latent_stats": scaling, "num_steps": 2, "seed": config.seed}
    [image] = ldj.generate(dit, vae, [0], **options)
    np.testing.assert_array_equal(image, images[0])


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["parity", "trained"])
def test_a_new_foundation_model_is_aligned_with(shown, monkeypatch, tmp_path):
    toy_models.register(monkeypatch)
    path, matrix = toy_models.convert(tmp_path, "patches")
    config = tiny.config(
        "digits_vavae",
        mesh__data=8,
        vae_loss__alignment="patches",
        vae_loss__distmat_weight=0.0,
        stages__cos_margin=(0.0,),
        frozen__foundation=path,
        frozen__foundation_normalize=shown,
    )
    mesh = make_mesh(8)
    job = make_job(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    make_step = job.make_step
    chex.clear_trace_counter()
    once = dataclasses.replace(
        job, make_step=lambda *made_of: chex.assert_max_traces(make_step(*made_of), 1)
    )
    init_state, step, _ = compile_ready(once, config, mesh, optimizer)
    images, state = digits(8), init_state()
    before = jax.device_get(state)
    batch = jax.device_put({"images": images}, batch_sharding(mesh))
    state, metrics = step(state, batch, *job.frozen)
    chex.assert_tree_all_finite(step(state, batch, *job.frozen)[0].params)  # not compiled again

    x = images / np.float32(127.5) - 1
    vae = nnx.merge(job.graphdef(), before.params)
    posterior = vae.encode(jnp.asarray(x))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    z = posterior.mean + posterior.std * jax.random.normal(key, posterior.mean.shape)
    z = np.asarray(z) @ np.asarray(before.companions["linear_proj"].params["kernel"])
    if shown == "trained":
        mean, std = map(np.array, toy_models.NORMALIZATION)
        x = (images / 255 - mean) / std
    features = toy_models.patches(x) @ matrix
    cosine = (z * features).sum(-1)
    cosine = cosine / (np.linalg.norm(z, axis=-1) * np.linalg.norm(features, axis=-1))
    assert metrics["vf_loss"] == pytest.approx((1 - cosine).mean(), rel=1e-3)


def test_models_offer_what_their_role_asks_for():
    sizes = {
        "lightningdit": tiny.dit_config(),
        "vavae": tokenizer_config(tiny.config("digits_vavae")),
        "vit": tiny.VIT,
    }
    roles = {kind: model.role for kind, model in MODELS.items() if model.role is not None}
    vision = {"dinov2", "mae", "dinov3", "siglip2", "clip", "convnextv2"}
    assert roles.keys() == sizes.keys() | vision
    for kind, role in roles.items():
        config = sizes.get(kind, MODELS[kind].published)
        graphdef, params = abstract_model(kind, config)
        module = nnx.merge(graphdef, params)

        def shape(run, *inputs, graphdef=graphdef, params=params):
            return jax.eval_shape(
                lambda params, *inputs: run(nnx.merge(graphdef, params), *inputs), params, *inputs
            )

        if role is Role.TOKENIZER:
            assert isinstance(module, Tokenizer)
            image = jax.ShapeDtypeStruct((2, 16, 32, module.in_channels), jnp.float32)
            z = shape(lambda vae, x: vae.encode(x).mean, image)
            factor = module.downsample_factor
            assert z.shape == (2, 16 // factor, 32 // factor, module.embed_dim)
            assert shape(lambda vae, z: vae.decode(z), z) == image
        elif role is Role.FOUNDATION:
            patch = config.patch_size
            image = jax.ShapeDtypeStruct((1, 2 * patch, 3 * patch, 3), jnp.float32)
            features = shape(lambda model, x: model(x), image)
            assert features.shape == (1, 2, 3, config.hidden_size)
        else:
            assert not isinstance(module, Tokenizer)
            assert module.flow is None and module.latent_scaling is None


def test_names_that_are_no_foundation_model_are_named_with_those_that_are():
    with pytest.raises(
        ValueError,
        match=r"config.vae_loss.alignment 'dino2'; did you mean 'dinov2'\?.* mae, .*vit, none",
    ):
        check_alignment(tiny.config("digits_vavae", vae_loss__alignment="dino2"))
    with pytest.raises(ValueError, match=r"alignment 'lpips'"):
        check_alignment(tiny.config("digits_vavae", vae_loss__alignment="lpips"))
    with pytest.raises(ValueError, match=r"is 'trained', but what a vit was trained with is not"):
        check_alignment(
            tiny.config(
                "digits_vavae", vae_loss__alignment="vit", frozen__foundation_normalize="trained"
            )
        )
