"""AdamW as the release uses it: constant rate, no decay, clipping only where asked."""

import optax

from lightningdit_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """optax AdamW with optional linear warm-up and global-norm clipping.

    The rate is what the config says; it is not scaled by the batch size.
    """
    rate = config.learning_rate
    if config.warmup_steps > 1:
        first = rate / config.warmup_steps  # the first step already moves
        rate = optax.linear_schedule(first, rate, config.warmup_steps - 1)
    adamw = optax.adamw(
        rate,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    if config.max_grad_norm:
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)
    return adamw
