"""compute.products=float8 in training: its histories, their checkpoint, meshes, what is refused."""

import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.checkpoint import find_checkpoint, item_names
from lightningdit_jax.models.float8 import through_float8
from lightningdit_jax.parallel.chips import has_float8
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.parallel.topology import compiler_options
from lightningdit_jax.training.job import abstract_generator_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready, train
from lightningdit_jax.training.state import create_state
from lightningdit_jax.training.update import accumulate_gradients, apply_gradients
from tests import tiny
from tests.training.loop_cases import assert_same

BATCH = 16


def config(**changes):
    values = {"compute__products": "float8", "compute__dtype": "bfloat16", **changes}
    return tiny.config("digits_dit", train__batch_size=BATCH, **values)


def steps_on(devices, count, **changes):
    """States after each of some steps, and the metrics of the last."""
    settings = config(**changes)
    mesh = make_mesh(**{"data": devices, "fsdp": 1}, devices=jax.devices()[:devices])
    job = abstract_generator_job(settings, mesh)
    optimizer = make_optimizer(settings.optimizer, settings.train.num_steps)
    init, step_fn, _ = compile_ready(job, settings, mesh, optimizer)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(BATCH, 8, 4, 4)).astype(np.float32)
    batch = {"latents": latents, "labels": np.arange(BATCH, dtype=np.int32) % 10}
    batch = jax.device_put(batch, batch_sharding(mesh))
    states = [init()]
    for _ in range(count):
        state, metrics = step_fn(jax.tree.map(jnp.copy, states[-1]), batch)
        states.append(state)
    return jax.device_get(states), jax.device_get(metrics)


def scales(state, *layer):
    return np.asarray(state.float8["blocks"][layer[0]][layer[1]]["scales"])


@pytest.mark.slow
def test_histories_hold_what_every_step_saw():
    states, metrics = steps_on(1, 3)
    assert metrics["finite"]
    for before, after in itertools.pairwise(states):
        for layer in ("qkv", "proj"):
            old, new = scales(before, "attn", layer), scales(after, "attn", layer)
            np.testing.assert_array_equal(new[..., 1:], old[..., :-1])
            # Kernels are seen before the update, as products take them.
            kernel = before.params["blocks"]["attn"][layer]["kernel"].astype(jnp.bfloat16)
            seen = np.abs(kernel.astype(np.float32)).reshape(len(kernel), -1).max(1)
            np.testing.assert_array_equal(new[:, 1, 0], seen)
    # Gates and an output of zero let no gradient through, and do some steps later.
    gradients = scales(states[-1], "mlp", "w12")[:, 2:]
    assert (gradients[..., 2] == 0).all() and (gradients[..., 0] > 0).all()


@pytest.mark.slow
def test_eight_devices_see_what_one_sees():
    (one, metrics), (eight, others) = steps_on(1, 3), steps_on(8, 3)
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=5e-3)
    chex.assert_trees_all_close(eight[-1].float8, one[-1].float8, rtol=0.1)
    # The first step's kernels and inputs differ in no bit, so neither do the largest of them.
    np.testing.assert_array_equal(*(scales(s[1], "attn", "qkv")[0, :2] for s in (eight, one)))


@pytest.mark.slow
def test_a_restart_goes_on_with_the_histories_bit_for_bit(tmp_path):
    data = str(tiny.write_latents(tmp_path / "latents"))
    settings = {"data__path": data, "train__checkpoint_every_steps": 2}
    whole = train(config(train__num_steps=4, **settings), str(tmp_path / "whole"))
    train(config(train__num_steps=2, **settings), str(tmp_path / "w"))
    assert "float8" in item_names(find_checkpoint(str(tmp_path / "w")))
    resumed = train(config(train__num_steps=4, **settings), str(tmp_path / "w"))
    assert_same(resumed, whole)
    assert scales(resumed, "mlp", "w12")[:, :2, :4].all()


@pytest.mark.slow
def test_the_switch_may_change_within_a_run(tmp_path, capsys):
    data, workdir = str(tiny.write_latents(tmp_path / "latents")), str(tmp_path / "w")
    plain = {"compute__products": "dtype", "data__path": data}
    assert train(config(train__num_steps=1, data__path=data), workdir).float8
    assert not train(config(train__num_steps=2, **plain), workdir).float8
    assert "float8" not in item_names(find_checkpoint(workdir))
    again = train(config(train__num_steps=3, data__path=data), workdir)
    assert "step 2 has no float8 products: their scales begin anew" in capsys.readouterr().out
    found = scales(again, "mlp", "w12")
    assert found[..., 0].all() and not found[..., 1:].any()


def test_of_the_parts_of_a_batch_the_largest_count():
    """Not their sum or mean, whatever the part; the loss here is the mean of x w."""

    def loss_fn(params, x):
        rounded = through_float8(x, params["layer"]["scales"][0])
        return jnp.mean(rounded * params["layer"]["w"]), {}

    params = {"layer": {"w": jnp.ones(()), "scales": jnp.ones(1)}}
    x = jnp.array([[1.0], [-7.0], [3.0], [2.0]])
    for steps in (1, 2, 4):
        (loss, _), grads = accumulate_gradients(loss_fn, params, (x,), steps)
        assert loss == grads["layer"]["w"] == -0.25
        assert grads["layer"]["scales"].tolist() == [7.0]


@pytest.mark.parametrize("seen", [np.inf, np.nan])
def test_what_is_not_finite_before_it_is_rounded_leaves_the_state(seen):
    """Clipped to the format an infinite gradient is a number like others."""
    params = {"w": jnp.ones(3)}
    optimizer = make_optimizer(config().optimizer, 10)
    state = create_state(params, optimizer, ema=True, float8={"scales": jnp.ones((2, 16))})
    for largest, finite in (jnp.array([2.0, seen]), False), (jnp.array([2.0, 3.0]), True):
        new, metrics = apply_gradients(
            state, params, jnp.ones(()), optimizer, 0.9, (), {"scales": largest}
        )
        assert metrics["finite"] == finite
        assert (new.params["w"][0] != 1) == finite
        np.testing.assert_array_equal(new.float8["scales"][:, 0], [2, 3] if finite else [1, 1])


def test_float32_is_refused_in_a_line():
    with pytest.raises(ValueError, match="float8 products give bfloat16: set"):
        abstract_generator_job(config(compute__dtype="float32"), make_mesh())


@pytest.mark.parametrize(
    ("kind", "capability", "there"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0", True),
        ("NVIDIA L4", "8.9", True),
        ("NVIDIA A100-SXM4-80GB", "8.0", False),
        ("TPU7x", None, True),
        ("TPU v6 lite", None, False),
        ("cpu", None, False),
    ],
)
def test_which_devices_have_float8(kind, capability, there):
    device = types.SimpleNamespace(device_kind=kind, compute_capability=capability)
    assert has_float8(device) == there


def test_gpus_get_the_option_without_which_xla_takes_the_rounding_out():
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    mesh = types.SimpleNamespace(devices=np.array([[[device]]], dtype=object))
    assert compiler_options(mesh, float8=True) == {"xla_gpu_enable_triton_gemm": False}
    assert not compiler_options(mesh)
