"""Whole runs of the tokenizer with every loss, on tiny networks: meshes, restarts, bad paths."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, item_names
from lightningdit_jax.models.foundation import IMAGENET
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training.frozen import load_frozen_networks
from lightningdit_jax.training.job import make_job
from lightningdit_jax.training.run import compile_ready, train
from tests import tiny


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    lpips = LPIPSConfig(channels=(4, 4, 4, 4, 4))
    return {
        "lpips": tiny.write_network(root / "lpips", LPIPS, lpips, "lpips"),
        "dinov2": tiny.write_network(root / "dinov2", ViT, tiny.VIT, "dinov2"),
    }


def config(networks, devices=8, **changes):
    values = {
        "mesh__data": devices // 2 if devices > 1 else 1,
        "mesh__fsdp": 2 if devices > 1 else 1,
        "vae_loss__perceptual_weight": 1.0,
        "vae_loss__disc_weight": 0.5,
        "vae_loss__alignment": "dinov2",
        "stages__disc_start": (3,),
        "discriminator__ndf": 4,
        "discriminator__num_layers": 1,
        "frozen__lpips": networks["lpips"],
        "frozen__foundation": networks["dinov2"],
        "train__num_steps": 4,
    }
    return tiny.config("digits_vavae", **values | changes)


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("whole"))
    return workdir, train(config(networks), workdir)


@pytest.mark.slow
def test_interrupted_run_ends_with_the_same_bits(networks, whole, tmp_path):
    train(config(networks, train__num_steps=2), str(tmp_path))
    state = train(config(networks), str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])


@pytest.mark.slow
def test_checkpoint_keeps_companions_apart(whole):
    workdir, state = whole
    checkpoint = find_checkpoint(workdir)
    items = {"step", "params", "opt_state", "discriminator", "linear_proj", "meta", "loop"}
    assert item_names(checkpoint) - {"_CHECKPOINT_METADATA"} == items
    vae = ldj.load(workdir)
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(vae, nnx.Param)),
        jax.device_get(state.params),
    )


@pytest.mark.slow
def test_the_adversary_begins_in_its_phase(whole):
    """disc_start 3: the discriminator's phase of step 2, the autoencoder's of step 3."""
    lines = (find_checkpoint(whole[0]).parent.parent / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["disc_factor"] for r in records] == [0, 0, 1, 1]
    assert [r["disc_loss"] > 0 for r in records] == [False, True, True, True]


@pytest.mark.slow
def test_another_adversary_in_the_workdir_is_refused(networks, whole):
    with pytest.raises(ValueError, match=r"holds a run with another companions.*discriminator"):
        train(config(networks, discriminator__ndf=8), whole[0])


def steps(config, mesh, count=2):
    """States and metrics of some steps on random images; plain descent, which amplifies nothing."""
    job, optimizer = make_job(config, mesh), optax.sgd(1e-5)
    init_state, step_fn, _ = compile_ready(job, config, mesh, optimizer)
    state, records = init_state(), []
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
        batch = jax.device_put({"images": images}, batch_sharding(mesh))
        state, metrics = step_fn(state, batch, *job.frozen)
        records.append(metrics)
    return jax.device_get((state, records))


@pytest.mark.slow
@pytest.mark.parametrize("alignment_loss", ["vf", "cka"])  # of positions, and of all images
def test_equal_results_on_one_and_eight_devices(networks, alignment_loss):
    changed = config(networks, stages__disc_start=(1,), vae_loss__alignment_loss=alignment_loss)
    state, records = steps(changed, make_mesh(4, 2, 1))
    want, wanted = steps(changed, make_mesh(devices=jax.devices()[:1]))
    for got, record in zip(records, wanted):
        for name, value in record.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "projects", "held_out"),
    [("pool_align", True, True), ("cka", False, False), ("soft_kl", False, False)],
)
def test_every_alignment_trains_and_is_held_out_where_an_image_has_it(
    networks, name, projects, held_out, tmp_path
):
    changed = config(
        networks,
        vae_loss__alignment_loss=name,
        vae_loss__perceptual_weight=0.0,
        vae_loss__disc_weight=0.0,
        data__valid_split="train",
        train__validate_every_steps=2,
        train__validate_examples=16,
        train__num_steps=2,
    )
    train(changed, str(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "vf_loss" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(np.isfinite(r["vf_loss"]) and r["vf_weight"] > 0 for r in steps)
    assert any("valid/l1" in record for record in records)
    assert any("valid/vf_loss" in record for record in records) == held_out
    assert ("linear_proj" in item_names(find_checkpoint(str(tmp_path)))) == projects


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen__lpips": ""}, "config.frozen.lpips is empty.*vae_loss.perceptual_weight"),
        ({"frozen__foundation": ""}, "config.frozen.foundation is empty.*stages.vf_weight"),
        ({"vae_loss__alignment": "mae"}, "config.frozen.foundation: .* holds a dinov2; .* a mae"),
    ],
)
def test_bad_networks_are_named(networks, changes, message):
    mesh = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=message):
        load_frozen_networks(config(networks, **changes), mesh)


def test_swapped_networks_are_named(networks):
    mesh = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"frozen.lpips: .* holds a dinov2; expected a lpips"):
        load_frozen_networks(config(networks, frozen__lpips=networks["dinov2"]), mesh)


def test_terms_of_weight_zero_need_no_network(networks):
    empty = {"frozen__lpips": "", "frozen__foundation": ""}
    off = {"vae_loss__perceptual_weight": 0.0, "stages__vf_weight": (0.0,)}
    mesh = make_mesh(devices=jax.devices()[:1])
    assert load_frozen_networks(config(networks, **empty, **off), mesh) == {}


class Recorder:
    """A foundation model that keeps what it is shown, and has features of `grid` patches a side."""

    def __init__(self, patch_size, grid=16):
        self.config = dataclasses.replace(tiny.VIT, patch_size=patch_size)
        self.grid, self.seen = grid, None

    def __call__(self, images):
        self.seen = images
        return jnp.zeros((len(images), self.grid, self.grid, self.config.hidden_size))


@pytest.mark.parametrize(("patch", "side"), [(14, 224), (16, 256)])
def test_foundation_models_see_a_patch_a_latent(patch, side):
    images = jax.random.uniform(jax.random.key(0), (1, 256, 256, 3), minval=-1.0)

    def shown(normalization):
        model = Recorder(patch)
        foundation_features(model, images, (16, 16), normalization)
        return model.seen

    seen, normalized = shown(None), shown(IMAGENET)
    assert seen.shape == (1, side, side, 3)
    if side == 256:
        np.testing.assert_allclose(seen, images, atol=1e-6)
    pixels = (np.asarray(seen) + 1) / 2
    want = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized, want, atol=1e-5)


def test_features_of_another_grid_are_no_features():
    images = jnp.zeros((1, 256, 256, 3))
    with pytest.raises(AssertionError, match=r"\(1, 15, 15, 32\)"):
        foundation_features(Recorder(16, grid=15), images, (16, 16), None)
