"""What every train step ends with: apply the gradients, average the weights, guard the state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightningdit_jax.averages import average_decays, power_sigmas
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.models.float8 import is_scales, remembered
from lightningdit_jax.training.ema import update_ema, update_power_ema
from lightningdit_jax.training.spikes import judge
from lightningdit_jax.training.state import Companion, TrainState, keep_finite
from lightningdit_jax.tree_paths import map_named


def accumulate_gradients(
    loss_fn: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    params: Any,
    batch: tuple[jax.Array, ...],
    steps: int,
    as_used: Callable[[Any], Any] = lambda params: params,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Any]:
    """((loss, metrics), gradients) of a batch, computed in `steps` parts one after another.

    loss_fn(params, *batch) -> (loss, metrics), means over the rows of arrays [B, ...]; steps
    divides B. As jax.value_and_grad(loss_fn, has_aux=True) on the whole batch, up to rounding, with
    the activations of one part at a time. Sums are float32, as the parameters are; of scales of
    float8 products (models.float8) the largest is taken instead. as_used: casts parameters as
    loss_fn would, once for all parts.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if steps == 1:
        return value_and_grad(params, *batch)

    def cut(x: jax.Array) -> jax.Array:
        """[B, ...] -> [steps, B / steps, ...]; part j takes the rows j, j + steps, ...

        So each device's rows, which are neighbors, give an equal share of every part, and none
        travels.
        """
        return jnp.swapaxes(x.reshape(-1, steps, *x.shape[1:]), 0, 1)

    used = as_used(params)

    def together(name: str, total: jax.Array, part: jax.Array) -> jax.Array:
        part = part.astype(total.dtype)  # before anything is added
        return jnp.maximum(total, part) if is_scales(name) else total + part

    def add(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        return map_named(together, total, value_and_grad(used, *part)), None

    parts = jax.tree.map(cut, batch)
    abstract = jax.eval_shape(value_and_grad, params, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    total, _ = jax.lax.scan(add, zeros, parts)
    return map_named(lambda name, x: x if is_scales(name) else x / steps, total)


def update_at(
    step: jax.Array,
    optimizer: optax.GradientTransformation,
    grads: Any,
    state: Any,
    params: Any,
    network: str = "",
) -> tuple[Any, Any]:
    """(updates, state) of an optimizer at a step of the run, by which its rate may go.

    network: the name of a companion whose parameters these are.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    return optimizer.update(grads, state, params, step=step, network=network)


def apply_gradients(
    state: TrainState,
    grads: Any,
    loss: jax.Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    ema_decays: Sequence[float] = (),
    largest: Any = {},  # noqa: B006 (empty)
    *,
    companions: Mapping[str, Any] = MappingProxyType({}),
    watched: Mapping[str, jax.Array] = MappingProxyType({}),
    spike_factor: float = 0.0,
    ema_sigmas: Sequence[float] = (),
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, and `grad_norm` (before clipping) and `finite` for the loop.

    `weight_norm` and `update_norm`, of the parameters and what was added to them, are for records;
    over all parameters, as grad_norm. XLA takes both in the pass of the optimizer.

    ema_decay: of the main average; ema_decays, ema_sigmas: of the others, as in create_state.
    largest: what the products of state.float8 saw. companions: gradients of all of the state's, by
    name, which have no running statistics; each is a network of its own to the optimizer, clipped
    by itself, and none is in a norm of the metrics. watched: metrics that state.spikes is of, where
    they are not `loss` and `grad_norm`; spike_factor: of train.spikes, see spikes.judge, whose
    numbers and `spike` are then for the loop too.
    If the loss, any gradient or any of these is not finite, or the step is a spike, everything but
    the step counter and the windows of spikes stays as it was: bad numbers never enter the state,
    whatever the loop decides to do about them.
    """
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    for gradient in companions.values():
        finite &= jnp.isfinite(optax.tree.norm(gradient))
    for seen in jax.tree.leaves(largest):  # rounded to float8 an infinity is a number
        finite &= jnp.isfinite(seen).all()
    updates, opt_state = update_at(state.step, optimizer, grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decays = average_decays(ema_decay, ema_decays)
    sigmas = power_sigmas(ema_sigmas)
    powers = {name: ema for name, ema in state.averages.items() if name in sigmas}
    averages = {
        name: update_ema(ema, params, decays[name])
        for name, ema in state.averages.items()
        if name not in sigmas
    }
    histories = jax.tree.map(remembered, state.float8, largest)
    metrics = {
        "grad_norm": grad_norm,
        "weight_norm": optax.tree.norm(params),
        "update_norm": optax.tree.norm(updates),
        "finite": finite,
    }
    windows = state.spikes
    if windows:
        values = {"loss": loss, "grad_norm": grad_norm, **watched}
        spike, windows, numbers = judge(windows, values, spike_factor, finite)
        metrics |= {"spike": spike, **numbers}
    beside = {
        name: update_companion(state.step, name, state.companions[name], gradient, {}, optimizer)
        for name, gradient in companions.items()
    }
    new = TrainState(
        state.step,
        params,
        averages | powers,
        opt_state,
        beside,
        float8=histories,
        spikes=state.spikes,
    )
    guarded = keep_finite(new, state, is_taken(metrics))
    step = state.step + 1
    # Of a step that is left out too, with the weights that it leaves: the profile is of all steps.
    powers = {n: update_power_ema(e, guarded.params, step, sigmas[n]) for n, e in powers.items()}
    averages = guarded.averages | powers
    return guarded.replace(step=step, averages=averages, spikes=windows), metrics


def apply_to_all(
    state: TrainState,
    grads: Any,
    checked: jax.Array,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    companions: Mapping[str, Any],
    stats: Mapping[str, Any],
    *,
    watched: Mapping[str, jax.Array] = MappingProxyType({}),
) -> tuple[TrainState, dict[str, jax.Array]]:
    """apply_gradients, with companions that have running statistics.

    checked: has to be finite for the step to enter the state; companions: gradients of all of the
    state's by name, and stats: what their statistics are afterwards.
    """
    new, metrics = apply_gradients(
        dataclasses.replace(state, companions={}),
        grads,
        checked,
        optimizer,
        config.ema_decay,
        config.ema_decays,
        watched=watched,
        spike_factor=config.spike_factor,
        ema_sigmas=config.ema_sigmas,
    )
    beside = {
        name: update_companion(
            state.step, name, state.companions[name], gradient, stats[name], optimizer
        )
        for name, gradient in companions.items()
    }
    beside = keep_finite(beside, state.companions, is_taken(metrics))
    return dataclasses.replace(new, companions=beside), metrics


def update_companion(
    step: jax.Array,
    name: str,
    companion: Companion,
    gradient: Any,
    stats: Any,
    optimizer: optax.GradientTransformation,
) -> Companion:
    """The companion after the optimizer's step, with these running statistics."""
    updates, opt_state = update_at(
        step, optimizer, gradient, companion.opt_state, companion.params, name
    )
    return Companion(optax.apply_updates(companion.params, updates), stats, opt_state)


def is_taken(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """Whether a step enters the state: metrics of apply_gradients."""
    return metrics["finite"] & ~metrics["spike"] if "spike" in metrics else metrics["finite"]
