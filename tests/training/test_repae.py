"""A generator and its tokenizer held together by the alignment: whose gradient reaches what."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.models.latent_norm import LatentNorm, latent_scaling_of
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.models.projector import Projector, ProjectorConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.init.opening import compare_data, open_init
from lightningdit_jax.training.init.start import begin
from lightningdit_jax.training.init.takeover import plan_takeover
from lightningdit_jax.training.init.tokenizer import (
    begin_with_tokenizer,
    open_tokenizer,
    plan_tokenizer,
)
from lightningdit_jax.training.job import abstract_job, make_job, open_source
from lightningdit_jax.training.repa import Alignment
from lightningdit_jax.training.repae_step import TokenizerPart, make_repae_step
from lightningdit_jax.training.run import train
from lightningdit_jax.training.state import create_state
from tests import tiny
from tests.training.init_cases import job_of, random_tree

# One worker has the programs of the module.
pytestmark = pytest.mark.xdist_group(__name__)

LATENTS = (6, 4, 4, 8)
BOTH = {
    "data__source": "digits",
    "data__split": "test",
    "data__path": "",
    "tokenizer__resolution": 8,
    "tokenizer__ch": 32,
    "tokenizer__ch_mult": (1, 1),
    "tokenizer__num_res_blocks": 0,
    "tokenizer__encoder_attn_resolutions": (),
    "tokenizer__decoder_attn_resolutions": (),
    "tokenizer__z_channels": 8,
    "tokenizer__embed_dim": 8,
    "vae_loss__reduction": "mean",
    "vae_loss__perceptual_weight": 0.0,
    "vae_loss__disc_weight": 0.0,
    "vae_loss__alignment": "none",
    "vae_loss__kl_weight": 0.01,
    "repa__features": "computed",
    "repa__depth": 1,
    "repa__projector_dim": 8,
    "repae__weight": 1.5,
    "sample__tokenizer": "",
}


def config(**changes):
    return tiny.config("digits_dit", **BOTH | changes)


def test_the_norm_of_latents_is_pytorchs_without_scale_and_bias():
    rng = np.random.default_rng(0)
    norm, want = LatentNorm(3, momentum=0.25), {"mean": np.zeros(3), "var": np.ones(3)}
    for _ in range(2):
        z = rng.normal(2.0, 3.0, (4, 2, 2, 3))
        flat = z.reshape(-1, 3)
        unbiased = {"mean": flat.mean(0), "var": flat.var(0, ddof=1)}
        want = {k: 0.75 * want[k] + 0.25 * unbiased[k] for k in want}
        found = norm(jnp.float32(z), train=True)
        normalized = (z - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-4)
        np.testing.assert_allclose(found, normalized, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], want["mean"], rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], want["var"], rtol=1e-5)
    outside = norm(jnp.float32(z), train=False)
    by_running = (z - want["mean"]) / np.sqrt(want["var"] + 1e-4)
    np.testing.assert_allclose(outside, by_running, rtol=1e-4, atol=1e-5)
    # What a checkpoint says of the latents takes the generator's back to the tokenizer's.
    scaling = latent_scaling_of(norm.mean[...], norm.var[...])
    np.testing.assert_allclose(scaling.invert(outside), z, rtol=1e-4, atol=1e-4)


class Patches(nnx.Module):
    """A tokenizer as small as can be: linear in the 2x2 pixels of a patch."""

    def __init__(self, rngs):
        self.encoder = nnx.Linear(12, 16, rngs=rngs)
        self.decoder = nnx.Linear(8, 12, rngs=rngs)

    def encode(self, images):
        cut = images.reshape(-1, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
        return DiagonalGaussian.from_moments(self.encoder(cut.reshape(-1, 4, 4, 12)))

    def decode(self, z):
        pixels = self.decoder(z).reshape(-1, 4, 4, 2, 2, 3)
        return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 3)


def recorder():
    """Keeps the gradients of a step in the optimizer's state, and moves nothing."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
    )


@dataclasses.dataclass
class Case:
    """A step(state, batch, frozen) of random images, whose features are frozen["teacher"]."""

    config: object
    graphdefs: dict
    batch: dict
    state: object
    step: object


def random(build, seed):
    """Structure and random parameters: a fresh generator says nothing, and has few gradients."""
    rng = np.random.default_rng(seed)
    graphdef, abstract = nnx.split(nnx.eval_shape(build), nnx.Param)
    shapes = nnx.to_pure_dict(abstract)
    return graphdef, jax.tree.map(lambda p: jnp.float32(rng.normal(0.0, 0.3, p.shape)), shapes)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    drawn = config(model__class_dropout_prob=0.5)
    sizes = tiny.dit_config(class_dropout_prob=0.5)
    networks = {
        "dit": random(lambda: LightningDiT(sizes, rngs=nnx.Rngs(0)), 1),
        "projector": random(
            lambda: Projector(ProjectorConfig(16, 5, "mlp", 8), rngs=nnx.Rngs(0)), 2
        ),
        "tokenizer": random(lambda: Patches(nnx.Rngs(0)), 3),
    }
    graphdefs = {name: graphdef for name, (graphdef, _) in networks.items()}
    stats = {"mean": jnp.linspace(-0.3, 0.4, 8), "var": jnp.linspace(0.5, 2.0, 8)}
    companions = {
        "repa_projector": (networks["projector"][1], {}),
        "tokenizer": (networks["tokenizer"][1], {}),
        "latent_norm": ({}, stats),
    }
    state = create_state(networks["dit"][1], recorder(), ema=False, companions=companions)
    images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    batch = {"images": jnp.asarray(images), "labels": jnp.arange(6)}
    part = TokenizerPart(
        graphdefs["tokenizer"], nnx.graphdef(LatentNorm(8, momentum=0.1)), networks={}
    )
    alignment = Alignment(drawn.repa, graphdefs["projector"], lambda features, images: features)
    step = make_repae_step(graphdefs["dit"], drawn, recorder(), alignment=alignment, tokenizer=part)
    return Case(drawn, graphdefs, batch, state, jax.jit(step))


def pure(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def cosine(a, b):
    norm = jnp.linalg.norm
    return (a * b).sum(-1) / norm(a, axis=-1) / norm(b, axis=-1)


def test_the_alignment_alone_reaches_the_tokenizer(case):
    """Gradients against those of the losses as the paper writes them, in one function each."""
    state, graphdefs = case.state, case.graphdefs
    params = {name: companion.params for name, companion in state.companions.items()}
    stats = state.companions["latent_norm"].stats
    key = jax.random.fold_in(jax.random.key(case.config.seed), 0)
    posterior_key, key = jax.random.split(key)
    time_key, noise_key, drop_key = jax.random.split(key, 3)
    t, x0 = jax.nn.sigmoid(jax.random.normal(time_key, (6,))), jax.random.normal(noise_key, LATENTS)
    labels = case.batch["labels"]
    dropped = jnp.where(jax.random.bernoulli(drop_key, 0.5, (6,)), 10, labels)
    assert 0 < (dropped == 10).sum() < 6
    images = case.batch["images"] / 127.5 - 1.0
    features = jnp.float32(np.random.default_rng(4).normal(size=(6, 4, 4, 5)))

    def own_loss(tokenizer):
        model = nnx.merge(graphdefs["tokenizer"], tokenizer)
        posterior = model.encode(images)
        z = posterior.mean + jnp.exp(posterior.logvar / 2) * jax.random.normal(
            posterior_key, LATENTS
        )
        kl = posterior.kl().mean() * 2 / 128
        return jnp.abs(images - model.decode(z)).mean() + 0.01 * kl, z

    def generator_terms(dit, projector, x1, y):
        time = t[:, None, None, None]
        model = nnx.merge(graphdefs["dit"], dit)
        velocity, kept = model.with_activations(time * x1 + (1 - time) * x0, t, y, (1,))
        projected = nnx.merge(graphdefs["projector"], projector)(kept[1])
        target = x1 - x0
        flow = jnp.square(velocity - target).mean() + (1 - cosine(velocity, target)).mean()
        return flow, -cosine(projected, features.reshape(6, 16, 5)).mean()

    def of_tokenizer(tokenizer):
        loss, z = own_loss(tokenizer)
        x1 = (z - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-4)
        align = generator_terms(state.params, params["repa_projector"], x1, labels)[1]
        return loss + 1.5 * align, align

    def of_generator(dit, projector):
        x1 = (z - mean) / np.sqrt(var + 1e-4)
        flow, align = generator_terms(dit, projector, x1, dropped)
        return flow + 0.5 * align

    (loss, z), without = jax.value_and_grad(own_loss, has_aux=True)(params["tokenizer"])
    z = np.asarray(z)
    mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
    # Features of length 0 are aligned with nothing. What is left is the tokenizer's own loss: the
    # generator's, which is far from its minimum, does not reach it.
    found, metrics = case.step(state, case.batch, {"teacher": jnp.zeros_like(features)})
    assert metrics["loss"] > 1 and metrics["grad_norm"] > 0 == metrics["align_loss"]
    close(found.companions["tokenizer"].opt_state, without)

    found, metrics = case.step(state, case.batch, {"teacher": features})
    (loss, align), want = jax.jit(jax.value_and_grad(of_tokenizer, has_aux=True))(
        params["tokenizer"]
    )
    close(found.companions["tokenizer"].opt_state, want)
    np.testing.assert_allclose(metrics["tokenizer_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["align_loss"], align, rtol=1e-4)
    loss = jax.jit(of_generator)(state.params, params["repa_projector"])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    gradient = found.companions["repa_projector"].opt_state
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 0
    after = found.companions["latent_norm"].stats
    np.testing.assert_allclose(after["mean"], 0.9 * stats["mean"] + 0.1 * mean, rtol=1e-4)
    unbiased = var * 96 / 95
    np.testing.assert_allclose(after["var"], 0.9 * stats["var"] + 0.1 * unbiased, rtol=1e-4)


def test_a_tokenizer_that_is_not_finite_changes_nothing(case):
    tokenizer = case.state.companions["tokenizer"]
    broken = jax.tree.map(lambda p: p.at[..., 0].set(jnp.nan), tokenizer.params)
    companions = case.state.companions | {
        "tokenizer": dataclasses.replace(tokenizer, params=broken)
    }
    state = dataclasses.replace(case.state, companions=companions)
    found, metrics = case.step(state, case.batch, {"teacher": jnp.ones((6, 4, 4, 5))})
    assert not metrics["finite"] and found.step == 1
    jax.tree.map(np.testing.assert_array_equal, found.companions, companions)


def close(found, want):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * np.abs(b).max() + 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": "latents"}, r"weight is 1\.5, but config\.data\.source is 'latents'"),
        ({"repa__features": "cached"}, r"repa\.features is 'cached', and the tokenizer learns"),
        ({"optimizer__name": "muon"}, r"optimizer\.name is 'muon', which knows"),
        ({"tokenizer__embed_dim": 4}, r"latents of 4x4 and 4 channels, but .* takes 4x4 and 8"),
        ({"train__evaluate_every_steps": 1}, r"train\.evaluate_every_steps is 1, which is of a"),
        (
            {"train__accumulate_steps": 2, "train__batch_size": 16},
            r"accumulate_steps is 2, but a tokenizer's",
        ),
        ({"model__num_classes": 5}, r"of 10 classes, .* set config\.model\.num_classes=10"),
        ({"frozen__foundation": ""}, r"config\.frozen\.foundation is empty, but config\.repa"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config(**{"frozen__foundation": "vit", **changes}), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_run_from_its_tokenizer_to_samples_and_on_with_the_same_bits(tmp_path):
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    options = {"frozen__foundation": vit, "train__num_steps": 4, "vae_loss__disc_weight": 0.5}
    options |= {"discriminator__ndf": 4, "discriminator__num_layers": 1, "stages__disc_start": (0,)}
    held_out = {"data__valid_split": "train", "train__validate_every_steps": 4}
    run = config(**options, **held_out, train__best_metric="valid/repa_loss")
    whole = tmp_path / "w"
    state = jax.device_get(train(run, str(whole)))
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    valid = records[-1]
    assert -1 < valid["valid/ema_repa_loss"] < 1 and valid["valid/l1"] == valid["valid/ema_l1"]
    for name, changes in (("same", {}), ("mesh", {"mesh__data": 2, "mesh__fsdp": 4})):
        shutil.copytree(whole, tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "4")
        again = config(**options, **held_out, train__best_metric="valid/repa_loss", **changes)
        again = jax.device_get(train(again, str(tmp_path / name)))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
            if changes:
                np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-3)
            else:
                np.testing.assert_array_equal(a, b)
    # The tokenizer in the checkpoint is one as any other.
    for path in (whole, whole / "best"):
        vae = ldj.load(str(path), part="tokenizer")
        params = pure(vae)
        kept = jax.tree.leaves(state.companions["tokenizer"].params)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(params), kept)
        stats = state.companions["latent_norm"].stats
        np.testing.assert_allclose(vae.latent_scaling.mean, stats["mean"])
        np.testing.assert_allclose(vae.latent_scaling.std, np.sqrt(stats["var"] + 1e-4))
        assert ldj.load(str(path)).latent_scaling == vae.latent_scaling
    ldj.save(str(tmp_path / "tokenizer"), vae)
    sample(run.changed(sample={"num_samples": 3, "num_steps": 3}), str(whole))
    drawn = np.load(whole / "samples.npz")["arr_0"]
    apart = run.changed(sample={"num_samples": 3, "num_steps": 3, "checkpoint": str(whole)})
    apart = apart.changed(sample={"tokenizer": str(tmp_path / "tokenizer")})
    sample(apart, str(tmp_path / "apart"))
    np.testing.assert_array_equal(np.load(tmp_path / "apart" / "samples.npz")["arr_0"], drawn)
    folder = extract(run, str(whole))
    assert (folder / "latents_stats.safetensors").exists()
    # And another run begins from it, with the statistics that it says.
    begun = config(**options | {"train__num_steps": 1}, repae__init=str(tmp_path / "tokenizer"))
    begun = jax.device_get(train(begun, str(tmp_path / "begun")))
    moved = begun.companions["latent_norm"].stats["mean"]
    assert np.abs(moved - stats["mean"]).max() < 0.2 * np.abs(stats["mean"]).max() + 0.05
    told = "w/checkpoints holds a run with another companions"
    with pytest.raises(ValueError, match=told):
        train(config(**options, repa__projector_dim=4), str(whole))


def test_the_step_takes_images_and_its_checkpoint_says_a_tokenizer(tmp_path):
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    chosen = config(frozen__foundation=vit, vae_loss__disc_weight=0.5)
    source = open_source(chosen)
    assert set(source.read_batch(np.arange(2), np.zeros(2, bool))) == {"images", "labels"}
    mesh = make_mesh(devices=jax.devices()[:1])
    for job in (make_job(chosen, mesh, source), abstract_job(chosen, mesh)):
        assert sorted(job.companions) == [
            "discriminator",
            "latent_norm",
            "repa_projector",
            "tokenizer",
        ]
        said = job.description["companions"]["tokenizer"]
        assert said["kind"] == "vavae" and said["architecture"]["embed_dim"] == 8
        assert "latents" not in job.description  # which every checkpoint says for itself


def test_a_discriminator_is_taken_in_the_structure_of_the_state(tmp_path):
    """A checkpoint has text for the indices of its layers."""
    path = tmp_path / "source"
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    small = {"discriminator__ndf": 4, "discriminator__num_layers": 1}
    chosen = config(
        frozen__foundation=vit, repae__init=str(path), vae_loss__disc_weight=0.5, **small
    )
    job, _, abstract, _ = job_of(chosen.changed(kind="vavae"))
    given = abstract.companions["discriminator"]
    discriminator = random_tree({"params": given.params, "stats": given.stats}, 1)
    arrays = {"params": random_tree(abstract.params, 0), "discriminator": discriminator}
    meta = {"format_version": 1, "kind": "vavae", "step": 3, **job.description}
    save_checkpoint(str(path), arrays, {"meta": json.loads(json.dumps(meta))})

    *_, abstract, mesh = job_of(chosen)
    takeover = plan_tokenizer(chosen, open_tokenizer(chosen, str(tmp_path / "new")), abstract)

    def fresh():
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)

    state = begin_with_tokenizer(takeover, fresh, abstract, mesh)[0]()
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    taken = state.companions["discriminator"]
    chex.assert_trees_all_equal({"params": taken.params, "stats": taken.stats}, discriminator)
    chex.assert_trees_all_equal(state.companions["tokenizer"].params, arrays["params"])


def test_the_tokenizer_of_a_run_of_both_is_begun_with(tmp_path):
    """By another run of both, with its statistics, and by a tokenizer's own."""
    path = tmp_path / "both"
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    chosen = config(frozen__foundation=vit, repae__init=str(path))
    job, _, abstract, mesh = job_of(chosen)
    tokenizer = {"params": random_tree(abstract.companions["tokenizer"].params, 1), "stats": {}}
    arrays = {"params": random_tree(abstract.params, 0), "tokenizer": tokenizer}
    scaling = latent_scaling_of(jnp.arange(8.0), jnp.full(8, 4.0))
    meta = {"format_version": 1, "kind": "lightningdit", "step": 3, "latents": scaling.to_meta()}
    save_checkpoint(str(path), arrays, {"meta": json.loads(json.dumps(job.description | meta))})

    takeover = plan_tokenizer(chosen, open_tokenizer(chosen, str(tmp_path / "new")), abstract)

    def fresh():
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)

    make, origin = begin_with_tokenizer(takeover, fresh, abstract, mesh)
    state = make()
    chex.assert_trees_all_equal(state.companions["tokenizer"].params, tokenizer["params"])
    np.testing.assert_allclose(state.companions["latent_norm"].stats["mean"], np.arange(8.0))
    assert origin["kind"] == "vavae" and origin["step"] == 3

    alone = chosen.changed(kind="vavae", train={"init": str(path)})
    job, optimizer, abstract, mesh = job_of(alone)
    takeover = plan_takeover(alone, open_init(alone, str(tmp_path / "new"))[0], abstract)
    make, _ = begin(takeover, job, alone, optimizer, abstract, mesh)
    chex.assert_trees_all_equal(make().params, tokenizer["params"])

    bare = chosen.changed(train={"init": str(path)}, repae={"init": ""})
    source, data = open_init(bare, str(tmp_path / "new"))[0], open_source(bare)
    [line] = [said for said in compare_data(bare, source, data) if "fresh" in said]
    assert f"config.repae.init is empty; set it to {path}, where it lies" in line
    whole = bare.changed(repae={"init": str(path)})
    assert not any("fresh" in said for said in compare_data(whole, source, data))
