"""What every train step ends with: apply the gradients, average the weights, guard the state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightningdit_jax.averages import average_decays
from lightningdit_jax.training.ema import update_ema
from lightningdit_jax.training.state import TrainState, keep_finite


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
    the activations of one part at a time. Sums are float32, as the parameters are. as_used: casts
    parameters as loss_fn would, once for all parts.
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

    def add(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        value, grads = value_and_grad(used, *part)
        # In the types of the sums before anything is added.
        return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, (value, grads)), None

    parts = jax.tree.map(cut, batch)
    abstract = jax.eval_shape(value_and_grad, params, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / steps, total)


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
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, and `grad_norm` (before clipping) and `finite` for the loop.

    ema_decay: of the main average; ema_decays: of the others, as in create_state.
    If the loss or any gradient is not finite, everything but the step counter stays as it was: bad
    numbers never enter the state, whatever the loop decides to do about them.
    """
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = update_at(state.step, optimizer, grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decays = average_decays(ema_decay, ema_decays)
    averages = {n: update_ema(ema, params, decays[n]) for n, ema in state.averages.items()}
    new = TrainState(state.step, params, averages, opt_state)
    guarded = keep_finite(new, state, finite)
    return guarded.replace(step=state.step + 1), {"grad_norm": grad_norm, "finite": finite}
