"""The sharding tables on the real models: every parameter has its place, and nothing changes."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from lightningdit_jax.assembly.registry import LIGHTNINGDIT_RULES, VAVAE_RULES
from lightningdit_jax.convert.convert import abstract_params, params_from_torch
from lightningdit_jax.flow.losses import flow_loss
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.lightningdit_config import VARIANTS, variant_dims
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAEConfig
from lightningdit_jax.parallel.mesh import AXES, batch_sharding, make_mesh
from lightningdit_jax.parallel.sharding import constrain_tokens, tree_shardings
from tests import golden, tiny

RELEASED = tiny.dit_config(**variant_dims("XL/1"), input_size=16, in_channels=32, num_classes=1000)


def abstract_mesh(*sizes):
    """A mesh of devices that are not there."""
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


def bytes_per_device(params, mesh, rules):
    shardings = tree_shardings(params, mesh, rules)
    local = jax.tree.map(lambda x, s: np.prod(s.shard_shape(x.shape)), params, shardings)
    return 4 * sum(jax.tree.leaves(local))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_usual_meshes(variant):
    config = dataclasses.replace(RELEASED, **variant_dims(variant))
    params = abstract_params("lightningdit", config)
    whole = 4 * sum(x.size for x in jax.tree.leaves(params))
    for sizes in [(1, 16, 1), (16, 16, 1), (4, 32, 2)]:
        part = bytes_per_device(params, abstract_mesh(*sizes), LIGHTNINGDIT_RULES)
        # What is replicated is a few percent of the model.
        assert whole / (sizes[1] * sizes[2]) < part < whole / (sizes[1] * sizes[2]) + 0.1 * whole


@pytest.mark.parametrize(
    "options",
    [{"use_swiglu": False, "use_rmsnorm": False, "use_qknorm": True}, {"use_qknorm": True}],
)
def test_every_option_has_its_rules(options):
    config = dataclasses.replace(RELEASED, **variant_dims("B/2"), learn_sigma=True, **options)
    tree_shardings(
        abstract_params("lightningdit", config), abstract_mesh(2, 8, 2), LIGHTNINGDIT_RULES
    )


def test_vavae_is_cut():
    config = VAVAEConfig(
        resolution=256,
        in_channels=3,
        ch=128,
        ch_mult=(1, 1, 2, 2, 4),
        num_res_blocks=2,
        encoder_attn_resolutions=(16,),
        decoder_attn_resolutions=(16,),
        z_channels=32,
        embed_dim=32,
    )
    params = abstract_params("vavae", config)
    whole = 4 * sum(x.size for x in jax.tree.leaves(params))
    part = bytes_per_device(params, abstract_mesh(1, 16, 1), VAVAE_RULES)
    assert whole / 16 < part < 1.2 * whole / 16


def loss_and_gradients(mesh):
    """Loss and gradients of a small model, placed and computed on this mesh."""
    weights = golden.load_weights("lightningdit_default")
    config, params = params_from_torch("lightningdit", weights)
    graphdef = nnx.graphdef(
        nnx.eval_shape(
            lambda: LightningDiT(config, rngs=CountedRngs(0), constrain=constrain_tokens(mesh))
        )
    )
    shardings = tree_shardings(params, mesh, LIGHTNINGDIT_RULES)
    rng = np.random.default_rng(0)
    shape = (16, config.input_size, config.input_size, config.in_channels)
    x, target = rng.normal(size=(2, *shape)).astype(np.float32)
    t, y = rng.uniform(size=16).astype(np.float32), np.arange(16) % config.num_classes

    def loss(params, x, t, y, target):
        losses = flow_loss(nnx.merge(graphdef, params)(x, t, y), target)
        return (losses["mse"] + losses["cosine"]).mean()

    batch = jax.device_put((x, t, y, target), batch_sharding(mesh))
    step = jax.jit(jax.value_and_grad(loss))
    value, gradients = step(jax.device_put(params, shardings), *batch)
    return jax.device_get((value, gradients))


@pytest.fixture(scope="module")
def on_one_device():
    return loss_and_gradients(make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    "sizes",
    [
        (2, 2, 2),
        pytest.param((8, 1, 1), marks=pytest.mark.slow),
        pytest.param((1, 8, 1), marks=pytest.mark.slow),
    ],
)
def test_equal_loss_and_gradients(sizes, on_one_device):
    value, gradients = loss_and_gradients(make_mesh(*sizes))
    want_value, want_gradients = on_one_device
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(want_gradients))
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * scale),
        gradients,
        want_gradients,
    )
