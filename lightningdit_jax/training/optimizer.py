"""AdamW as the release uses it: constant rate, no decay, clipping only where asked."""

from typing import Any

import jax
import optax

from lightningdit_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """optax AdamW with optional linear warm-up and global-norm clipping.

    The rate is what the config says; it is not scaled by the batch size. Updates are those of
    optax.chain(clip_by_global_norm, adamw(schedule)), but the state is that of adamw alone,
    whatever the config: a run may change clipping and warm-up where it stands. Warm-up counts the
    updates that Adam has made, from the beginning of the run.
    """

    def adamw(rate: float | jax.Array) -> optax.GradientTransformation:
        return optax.adamw(
            rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if config.max_grad_norm:
            clip = optax.clip_by_global_norm(config.max_grad_norm)
            grads, _ = clip.update(grads, optax.EmptyState())
        rate = config.learning_rate
        if config.warmup_steps > 1:
            first = rate / config.warmup_steps  # the first step already moves
            schedule = optax.linear_schedule(first, rate, config.warmup_steps - 1)
            rate = schedule(state[0].count)
        return adamw(rate).update(grads, state, params)

    return optax.GradientTransformation(adamw(config.learning_rate).init, update)
