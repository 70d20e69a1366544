"""Whole train steps on meshes: the same numbers everywhere, and state that is really cut."""

import functools
import math
import re

import jax
import numpy as np
import optax
import pytest

from lightningdit_jax.data.digits import Digits
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training.job import abstract_generator_job, abstract_tokenizer_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from tests import tiny

BATCH = 16
ONE = (1, 1, 1)


def generator():
    """Config, job and batch; heads and MLP width divide by tensor = 8."""
    config = tiny.config(
        "digits_dit", model__hidden_size=96, model__num_heads=8, train__batch_size=BATCH
    )
    latents = np.random.default_rng(0).normal(size=(BATCH, 8, 4, 4)).astype(np.float32)
    labels = np.arange(BATCH, dtype=np.int32) % 10
    return config, abstract_generator_job, {"latents": latents, "labels": labels}


def tokenizer():
    config = tiny.config("digits_vavae", train__batch_size=BATCH, train__ema_decay=0.9)
    digits = Digits("test", 16)
    images = np.stack([np.asarray(digits.image(i)) for i in range(BATCH)])
    return config, abstract_tokenizer_job, {"images": images}


KINDS = {"generator": generator, "tokenizer": tokenizer}


@functools.cache
def one_step(kind, sizes):
    """State on the mesh after a step, and its metrics."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    config, make_job, batch = KINDS[kind]()
    job, optimizer = (
        make_job(config, mesh),
        make_optimizer(config.optimizer, config.train.num_steps),
    )
    init_state, step_fn, _ = compile_ready(job, config, mesh, optimizer)
    state, metrics = step_fn(init_state(), jax.device_put(batch, batch_sharding(mesh)))
    return state, jax.device_get(metrics)


def assert_cut(kind, sizes, tree):
    """Large kernels lie in equal parts on the devices, and little else on each."""
    cut = sizes[1] * (sizes[2] if kind == "generator" else 1)  # tensor cuts no convolution
    large = r"/(attn|mlp)/.*kernel$" if kind == "generator" else r"/conv[12]/kernel$"
    whole = on_a_device = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sizes_here = {shard.data.nbytes for shard in leaf.addressable_shards}
        assert len(sizes_here) == 1, name
        [here] = sizes_here
        whole, on_a_device = whole + leaf.nbytes, on_a_device + here
        if re.search(large, name):
            assert here * cut == leaf.nbytes, name
    assert cut == 1 or on_a_device < 0.7 * whole


def first_update_norm(kind, opt_state, rate):
    """Of Adam's first step, by the moments after it."""
    adam = KINDS[kind]()[0].optimizer
    squares = 0.0
    for moments in zip(*(jax.tree.leaves(optax.tree.get(opt_state, m)) for m in ("mu", "nu"))):
        mean, square = (np.asarray(x, np.float64) for x in moments)
        step = mean / (1 - adam.beta1) / (np.sqrt(square / (1 - adam.beta2)) + adam.eps)
        squares += np.sum(step**2)
    return rate * squares**0.5


def check(kind, sizes):
    state, metrics = one_step(kind, sizes)
    want_state, want_metrics = one_step(kind, ONE)
    for name in want_metrics.keys() - {"update_norm"}:
        np.testing.assert_allclose(metrics[name], want_metrics[name], rtol=1e-5, err_msg=name)
    # A sum of nearly equal squares in float32, 1e-5 to 5e-5 off where a device has 10,000 of them.
    norm = first_update_norm(kind, state.opt_state, metrics["learning_rate"])
    np.testing.assert_allclose(metrics["update_norm"], norm, rtol=5e-5)
    # Adam's moments are multiples of the gradient and its square; its update forgets their size.
    moments = [jax.device_get(jax.tree.leaves(s.opt_state)) for s in (state, want_state)]
    scale = max(np.abs(x).max() for x in moments[1] if x.ndim)
    for got, want in zip(*moments, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6 * scale)

    for part in (state.params, state.ema, state.opt_state):
        assert_cut(kind, sizes, part)


def test_generator():
    check("generator", (2, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mesh(kind, sizes):
    check(kind, sizes)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ((1, 1, 8), {"model__num_heads": 4}, r"attn.*size 4 cannot be divided by mesh.tensor=8"),
        ((1, 1, 2), {"model__hidden_size": 32}, r"w12.*size 85 cannot be divided by mesh.tensor=2"),
    ],
)
def test_sizes_that_do_not_divide_are_named(sizes, changes, message):
    config = tiny.config("digits_dit", **{"model__hidden_size": 96, **changes})
    mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    with pytest.raises(ValueError, match=message):
        compile_ready(
            abstract_generator_job(config, mesh),
            config,
            mesh,
            make_optimizer(config.optimizer, config.train.num_steps),
        )
