"""What every train step ends with: apply the gradients, average the weights, guard the state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightningdit_jax.training.ema import update_ema
from lightningdit_jax.training.state import TrainState, keep_finite


def apply_gradients(
    state: TrainState,
    grads: Any,
    loss: jax.Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, and `grad_norm` (before clipping) and `finite` for the loop.

    If the loss or any gradient is not finite, everything but the step counter stays as it was: bad
    numbers never enter the state, whatever the loop decides to do about them.
    """
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else update_ema(state.ema, params, ema_decay)
    new = TrainState(state.step, params, ema, opt_state)
    guarded = keep_finite(new, state, finite)
    return guarded.replace(step=state.step + 1), {"grad_norm": grad_norm, "finite": finite}
