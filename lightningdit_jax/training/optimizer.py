"""Optimizers by name, and around each the schedule and the clipping that all of them share."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.training.schedules import make_schedule

Rate = float | jax.Array
Factory = Callable[[OptimizerConfig, Rate, Any], optax.GradientTransformation]


def _adamw(config: OptimizerConfig, rate: Rate, params: Any) -> optax.GradientTransformation:
    """Loshchilov and Hutter 2019; as the release uses it: no decay, betas of the config."""
    return optax.adamw(
        rate, b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=config.weight_decay
    )


def _lion(config: OptimizerConfig, rate: Rate, params: Any) -> optax.GradientTransformation:
    """Chen et al. 2023, arXiv 2302.06675: half the state of AdamW, at a third of its rate or less.

    Reads no eps.
    """
    return optax.lion(rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay)


# A row makes the transformation of one network for a rate, a number or a traced scalar. params:
# ShapeDtypeStructs of that network's parameters, of the model or of one trained beside it; with
# their names (tree_paths) and shapes a row may treat them in groups (optax.multi_transform). The
# state must not depend on the rate, nor on keys that may change within a run.
OPTIMIZERS: dict[str, Factory] = {"adamw": _adamw, "lion": _lion}


def make_optimizer(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run of num_steps steps, for every network that the run trains.

    update(gradients, state, params, step=step of the run) -> (updates, state). Updates are those of
    optax.chain(clip_by_global_norm, optimizer(schedule)), but the state is that of the optimizer
    alone, whatever schedule and clipping: a run may change them where it stands. Raises ValueError
    for an unknown name, and as make_schedule.
    """
    if config.name not in OPTIMIZERS:
        known = tuple(OPTIMIZERS)
        raise ValueError(unknown_name("value of config.optimizer.name", config.name, known))
    schedule = make_schedule(config, num_steps)

    def at(rate: Rate, params: Any) -> optax.GradientTransformation:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        return OPTIMIZERS[config.name](config, rate, abstract)

    def init(params: Any) -> Any:
        return at(config.learning_rate, params).init(params)

    def update(
        grads: Any, state: Any, params: Any = None, *, step: jax.Array, **others: Any
    ) -> tuple[Any, Any]:
        if config.max_grad_norm:
            clip = optax.clip_by_global_norm(config.max_grad_norm)
            grads, _ = clip.update(grads, optax.EmptyState())
        return at(schedule(step), params).update(grads, state, params)

    return optax.GradientTransformationExtraArgs(init, update)
