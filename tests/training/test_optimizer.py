"""Optimizers with clipping and schedules: numbers as optax's chain, one state whatever is set."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training import optimizer as optimizers
from lightningdit_jax.training.job import abstract_generator_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from lightningdit_jax.tree_paths import map_named, named_leaves
from tests import tiny
from tests.training.loop_cases import assert_same, run

RATE, STEPS = 0.03, 8
BETAS = {"b1": 0.9, "b2": 0.95}
OPTAX = {
    "adamw": lambda rate: optax.adamw(rate, **BETAS, eps=1e-8, weight_decay=0.1),
    "lion": lambda rate: optax.lion(rate, **BETAS, weight_decay=0.1),
}
SETTINGS = list(itertools.product((0.0, 0.5), (0, 5)))
CONFIG = OptimizerConfig(
    name="adamw",
    learning_rate=RATE,
    schedule="constant",
    warmup_steps=0,
    decay_steps=0,
    end_factor=0.0,
    beta1=BETAS["b1"],
    beta2=BETAS["b2"],
    eps=1e-8,
    momentum=0.95,
    weight_decay=0.1,
    max_grad_norm=0.0,
    freeze=(),
    rate_factors=(),
)


def optimizer(max_grad_norm, warmup_steps, **changes):
    changes |= {"max_grad_norm": max_grad_norm, "warmup_steps": warmup_steps}
    return make_optimizer(dataclasses.replace(CONFIG, **changes), STEPS)


def chain(max_grad_norm, warmup_steps, name="adamw"):
    """The same of optax's own parts."""
    rate = RATE
    if warmup_steps:
        rate = optax.linear_schedule(rate / warmup_steps, rate, warmup_steps - 1)
    parts = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm else []
    return optax.chain(*parts, OPTAX[name](rate))


def gradients():
    """Eight gradients, of norms on both sides of the clipping."""
    rng = np.random.default_rng(0)
    sizes = np.linspace(0.05, 0.6, STEPS)
    return [
        {
            "w": jnp.asarray(rng.normal(0, size, (3, 2)), jnp.float32),
            "b": jnp.asarray(rng.normal(0, size, 2), jnp.float32),
        }
        for size in sizes
    ]


def trajectory(optimizer):
    """Weights after each gradient."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads, number):
        updates, state = optimizer.update(grads, state, params, step=number)
        return optax.apply_updates(params, updates), state

    seen = []
    for number, grads in enumerate(gradients()):
        params, state = step(params, state, grads, jnp.int32(number))
        seen.append(params)
    return seen


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", OPTAX)
def test_updates_equal_those_of_optax_to_the_bit(setting, name):
    norms = [float(optax.tree.norm(g)) for g in gradients()]
    assert min(norms) < 0.5 < max(norms)
    jax.tree.map(
        np.testing.assert_array_equal,
        trajectory(optimizer(*setting, name=name)),
        trajectory(chain(*setting, name)),
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "trapezoid"])
def test_a_falling_rate_is_followed(schedule):
    """Lion moves every weight by the rate itself, without decay."""
    changes = {"schedule": schedule, "decay_steps": 3, "end_factor": 0.2, "weight_decay": 0.0}
    weights = trajectory(optimizer(0.0, 2, name="lion", **changes))
    b = np.array([np.zeros(2), *(w["b"] for w in weights)], np.float64)
    moved = np.abs(np.diff(b, axis=0)).mean(axis=1) / RATE
    falls = {
        "linear": 1 - 0.8 * np.arange(6) / 6,
        "cosine": 0.2 + 0.4 * (1 + np.cos(np.pi * np.arange(6) / 6)),
        "trapezoid": [1, 1, 1, 1, 1 - 0.8 / 3, 1 - 1.6 / 3],
    }
    np.testing.assert_allclose(moved, [0.5, 1, *falls[schedule]], rtol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_state_is_that_of_the_optimizer_whatever_is_set(setting):
    params = {"w": jnp.ones(2)}
    for changes in ({}, {"schedule": "cosine"}, {"schedule": "trapezoid", "decay_steps": 2}):
        state = optimizer(*setting, **changes).init(params)
        assert jax.tree.structure(state) == jax.tree.structure(optax.adamw(RATE).init(params))
        grads = {"w": jnp.ones(2)}
        _, after = optimizer(*setting, **changes).update(grads, state, params, step=jnp.int32(0))
        assert jax.tree.structure(after) == jax.tree.structure(state)


def test_warmup_that_is_switched_on_counts_from_the_beginning_of_the_run():
    params = {"w": jnp.ones(2)}
    plain, warm = optimizer(0.0, 0, weight_decay=0.0), optimizer(0.0, 5, weight_decay=0.0)
    state = plain.init(params)
    for step, grads in enumerate(({"w": jnp.ones(2)}, {"w": -jnp.ones(2)})):
        _, state = plain.update(grads, state, params, step=step)
    grads = {"w": jnp.full(2, 0.5)}
    full, _ = plain.update(grads, state, params, step=2)
    part, _ = warm.update(grads, state, params, step=2)
    np.testing.assert_allclose(part["w"], full["w"] * 3 / 5, rtol=1e-6)  # the third of five


def test_an_unknown_optimizer_is_one_line():
    with pytest.raises(ValueError, match=r"value of config\.optimizer\.name 'adam'; did you mean"):
        optimizer(0.0, 0, name="adam")


def is_matrix(name, leaf):
    """Of one block; those of a stack have an axis in front."""
    return leaf.ndim - name.startswith("blocks/") > 1


def by_shape(config, rate, params):
    """A row that moves matrices by momentum and leaves vectors to Adam."""
    labels = map_named(lambda name, x: "matrix" if is_matrix(name, x) else "vector", params)
    return optax.multi_transform(
        {"matrix": optax.sgd(rate, momentum=0.5), "vector": optax.adam(rate)}, labels
    )


@pytest.mark.slow
def test_a_row_groups_parameters_by_name_and_shape_on_a_mesh(monkeypatch):
    """One step of the tiny generator on eight devices moves each group as its own rule says."""
    monkeypatch.setitem(optimizers.OPTIMIZERS, "by_shape", by_shape)
    config = tiny.config(
        "digits_dit",
        optimizer__name="by_shape",
        optimizer__max_grad_norm=0.0,
        optimizer__warmup_steps=0,
        model__depth=1,
    )
    mesh = make_mesh(data=2, fsdp=4)
    chosen = make_optimizer(config.optimizer, config.train.num_steps)
    job = abstract_generator_job(config, mesh)
    init, step, abstract = compile_ready(job, config, mesh, chosen)
    matrices = {name for name, leaf in named_leaves(abstract.params) if is_matrix(name, leaf)}
    moments = dict(named_leaves(abstract.opt_state.inner_states["matrix"]))
    traces = {name.partition("trace/")[2]: leaf for name, leaf in moments.items()}
    assert traces.keys() == matrices
    for name, leaf in named_leaves(abstract.params):
        if name in matrices:
            assert traces[name].sharding == leaf.sharding, name
    assert any(leaf.sharding.spec != P() for leaf in traces.values())

    side, channels = config.model.input_size, config.model.in_channels
    rng = np.random.default_rng(0)
    batch = {
        "latents": rng.normal(size=(8, channels, side, side)).astype(np.float32),
        "labels": np.arange(8, dtype=np.int32),
    }
    before = jax.device_get(init().params)
    state, metrics = step(init(), batch)
    after = jax.device_get(state.params)
    rate = config.optimizer.learning_rate
    assert metrics["learning_rate"] == np.float32(rate)
    trace = dict(named_leaves(jax.device_get(state.opt_state.inner_states["matrix"])))
    trace = {name.partition("trace/")[2]: leaf for name, leaf in trace.items()}
    any_moved = {True: False, False: False}
    for (name, old), (_, new) in zip(named_leaves(before), named_leaves(after), strict=True):
        moved = np.asarray(new, np.float64) - old
        any_moved[name in matrices] |= bool(moved.any())
        if name in matrices:  # the first momentum is the gradient
            np.testing.assert_allclose(moved, -rate * trace[name], atol=1e-6, err_msg=name)
        else:  # Adam's first update is the sign of the gradient
            np.testing.assert_allclose(np.abs(moved[moved != 0]), rate, rtol=1e-2, err_msg=name)
    assert any_moved == {True: True, False: True}


def test_a_row_of_groups_is_restored_as_it_was(monkeypatch, tmp_path):
    monkeypatch.setitem(optimizers.OPTIMIZERS, "by_shape", by_shape)
    grouped = optimizer(0.0, 0, name="by_shape")
    whole, _ = run(tmp_path / "whole", optimizer=grouped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", optimizer=grouped, fail_at=8)
    killed, _ = run(tmp_path / "killed", optimizer=grouped)
    assert_same(killed, whole)
    with pytest.raises(ValueError, match=r"another config\.optimizer\.name"):
        run(tmp_path / "killed", optimizer=optimizer(0.0, 0, name="lion"), num_steps=13)
