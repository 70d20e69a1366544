"""The terms of the tokenizer's loss on held-out images, on tiny networks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.training.alignment_losses import vf_loss
from lightningdit_jax.training.frozen import load_frozen_networks
from lightningdit_jax.training.held_out import SEED, HeldOut
from lightningdit_jax.training.held_out_data import open_held_out
from lightningdit_jax.training.job import fresh_state, make_job, state_rules
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import train
from lightningdit_jax.training.vae_loss import discriminator_loss
from tests import tiny

COUNT = 11


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images with one that is damaged, the third."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02d}.png")
    (folder / "02.png").write_bytes(b"damaged")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory, images):
    root = tmp_path_factory.mktemp("networks")
    lpips = LPIPSConfig(channels=(4, 4, 4, 4, 4))
    return tiny.config(
        "digits_vavae",
        data__valid_path=str(images),
        data__corrupt="skip",
        vae_loss__perceptual_weight=1.0,
        vae_loss__disc_weight=0.5,
        vae_loss__alignment="dinov2",
        stages__distmat_margin=(0.0,),
        stages__cos_margin=(0.0,),
        discriminator__ndf=4,
        discriminator__num_layers=2,
        frozen__lpips=tiny.write_network(root / "lpips", LPIPS, lpips, "lpips"),
        frozen__foundation=tiny.write_network(root / "dinov2", ViT, tiny.VIT, "dinov2"),
        train__validate_every_steps=1,
        train__ema_decay=0.9,
    )


def state_of(job, config, mesh):
    """With averages and statistics of their own, and a discriminator that is sure of itself."""
    optimizer = make_optimizer(config.optimizer, 2)
    state = jax.jit(lambda: fresh_state(job, config, optimizer))()
    state.averages["ema"] = jax.tree.map(lambda w: 0.9 * w, state.params)
    judge = state.companions["discriminator"]
    stats = jax.tree.map(lambda s: s + 1 if s.dtype == np.float32 else s, judge.stats)
    state.companions["discriminator"] = dataclasses.replace(
        judge, params=jax.tree.map(lambda w: 5 * w, judge.params), stats=stats
    )
    abstract = abstract_on_mesh(jax.eval_shape(lambda: state), mesh, state_rules("vavae"))
    return jax.device_put(state, jax.tree.map(lambda a: a.sharding, abstract)), abstract


def numbers(config, job, state, abstract, mesh, batch_size):
    valid = open_held_out(config, job.source)
    losses = job.make_held_out(job.graphdef(), config)
    sizes = {"count": len(valid), "batch_size": batch_size}
    held_out = HeldOut(losses, valid, mesh, **sizes, abstract=abstract, frozen=job.frozen)
    found = held_out(0, state)
    assert found.keys() == set(held_out.names)
    return found


def expecting(config, images, state, job, mesh):
    """params -> terms of one batch, the images that can be read, by the functions of batches."""
    kept = [i for i in range(COUNT) if i != 2]
    pixels = np.stack([np.asarray(Image.open(images / f"{i:02d}.png")) for i in kept])
    x, root = pixels.astype(np.float32) / 127.5 - 1, jax.random.key(SEED)
    networks = load_frozen_networks(config, mesh)
    built = {name: nnx.graphdef(build(nnx.Rngs(0))) for name, build in job.companions.items()}
    critic = state.companions["discriminator"]

    @jax.jit
    def outputs(params):
        model = nnx.merge(job.graphdef(), params)
        posterior = model.encode(x)
        noise = [
            jax.random.normal(jax.random.fold_in(root, i), posterior.mean.shape[1:]) for i in kept
        ]
        z = posterior.mean + posterior.std * jnp.stack(noise)
        y = model.decode(z)
        judge = nnx.merge(built["discriminator"], critic.params, critic.stats)
        project = nnx.merge(built["linear_proj"], state.companions["linear_proj"].params)
        real, fake = judge(x, train=False), judge(y, train=False)
        features = foundation_features(networks["foundation"].module(), x, z.shape[1:3], None)
        margins = {"distmat_margin": 0.0, "cos_margin": 0.0}
        terms = {
            "g_loss": -fake.mean(),
            "disc_loss": discriminator_loss(real, fake, config.vae_loss),
            "vf_loss": vf_loss(project(z), features, **margins, config=config.vae_loss),
            "lpips": networks["lpips"].module()(x, y).mean(),
        }
        return posterior.mean, posterior.std, y, terms

    def expected(params):
        m, s, y, terms = jax.tree.map(lambda a: np.asarray(a, np.float64), outputs(params))
        l1 = np.abs(y - x).mean()
        kl = 0.5 * (m**2 + s**2 - 1 - 2 * np.log(s)).sum((1, 2, 3)).mean()
        terms |= {"l1": l1, "nll": x[0].size * (l1 + terms["lpips"]), "kl": kl}
        return {name: float(value) for name, value in terms.items()}

    return expected


@pytest.fixture(scope="module")
def one(config):
    """(job, state, mesh, the numbers) on one device."""
    mesh = make_mesh(devices=jax.devices()[:1])
    job = make_job(config, mesh)
    state, abstract = state_of(job, config, mesh)
    return job, state, mesh, numbers(config, job, state, abstract, mesh, 4)


@pytest.mark.slow
def test_every_term_is_that_of_the_whole_batch(config, images, one):
    job, state, mesh, found = one
    expected = expecting(config, images, state, job, mesh)
    for prefix, params in {"": state.params, "ema_": state.ema}.items():
        want = expected(params)
        got = {name: found[f"{prefix}{name}"] for name in want}
        assert got == pytest.approx(want, rel=1e-4)
    assert len(found) == 2 * len(want)


@pytest.mark.slow
def test_devices_change_nothing(config, one):
    mesh = make_mesh(fsdp=2)
    job = make_job(config, mesh)
    state, abstract = state_of(job, config, mesh)
    assert numbers(config, job, state, abstract, mesh, 8) == pytest.approx(one[-1], rel=1e-4)


@pytest.mark.slow
def test_a_split_is_held_out_in_a_run(tmp_path):
    held_out = {"data__valid_split": "train", "train__validate_every_steps": 1}
    settings = {**held_out, "train__validate_examples": 20, "train__best_metric": "valid/nll"}
    train(tiny.config("digits_vavae", **settings), str(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "valid/nll" in r]
    assert [r.keys() for r in records] == [{"step", "valid/l1", "valid/nll", "valid/kl"}] * 2
    assert records[1]["valid/nll"] < records[0]["valid/nll"]
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"nothing is held out; set config\.data\.valid_path or config\.data\.valid_split"),
        ({"data__valid_split": "test"}, r"valid_split is 'test', which is trained on"),
        ({"data__valid_split": "tset"}, r"tset"),
        (
            {"data__valid_split": "train", "data__valid_path": "images"},
            r"config\.data\.valid_path and config\.data\.valid_split are both set",
        ),
        ({"data__valid_path": "nowhere"}, r"nowhere: no such folder .* config\.data\.valid_path"),
    ],
)
def test_what_cannot_be_held_out_is_refused(tmp_path, changes, message):
    config = tiny.config("digits_vavae", train__validate_every_steps=1, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        train(config, str(tmp_path / "w"))
    assert "\n" not in str(raised.value) and not (tmp_path / "w").exists()
