"""Optimizers by name, and around each the schedule, clipping and freezing that they share."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.path_patterns import check_patterns, is_matched
from lightningdit_jax.training.muon import muon, muon_all
from lightningdit_jax.training.schedules import make_schedule
from lightningdit_jax.training.state import TrainState, trained_names
from lightningdit_jax.tree_paths import map_named

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
# ShapeDtypeStructs of that network's parameters, of the model or of one trained beside it, with
# shardings where they lie on a mesh (on_mesh); with their names (tree_paths) and shapes a row may
# treat them in groups (optax.multi_transform). The state must not depend on the rate, nor on keys
# that may change within a run.
OPTIMIZERS: dict[str, Factory] = {
    "adamw": _adamw,
    "lion": _lion,
    "muon": muon,
    "muon_all": muon_all,
}


def make_optimizer(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run of num_steps steps, for every network that the run trains.

    update(gradients, state, params, step=step of the run, network=name of a companion, "" for the
    model) -> (updates, state). Updates are those of optax.chain(clip_by_global_norm,
    optimizer(schedule)), but the state is that of the optimizer alone, whatever schedule, clipping,
    frozen parameters and factors: a run may change them where it stands. A frozen parameter's
    gradient counts as 0, in the norm that is clipped too, and its update is 0; a factor multiplies
    an update, weight decay included, as the rate does. Raises ValueError for an unknown name, for a
    factor that is none, and as make_schedule; init for parameters that the optimizer is not for.
    """
    if config.name not in OPTIMIZERS:
        known = tuple(OPTIMIZERS)
        raise ValueError(unknown_name("value of config.optimizer.name", config.name, known))
    schedule = make_schedule(config, num_steps)
    factors = _rate_factors(config)

    def factor(name: str) -> float:
        if is_matched(name, config.freeze):
            return 0.0
        return next((value for pattern, value in factors if is_matched(name, [pattern])), 1.0)

    def at(rate: Rate, abstract: Any) -> optax.GradientTransformation:
        return OPTIMIZERS[config.name](config, rate, abstract)

    def init(params: Any) -> Any:
        return at(config.learning_rate, _without_arrays(params)).init(params)

    def update(
        grads: Any,
        state: Any,
        params: Any = None,
        *,
        step: jax.Array,
        network: str = "",
        abstract: Any = None,
        **others: Any,
    ) -> tuple[Any, Any]:
        """abstract: of the parameters, with their shardings on a mesh; see on_mesh."""
        prefix = f"{network}/" if network else ""
        by_leaf = map_named(lambda name, _: factor(prefix + name), grads)
        grads = jax.tree.map(lambda g, by: g if by else jnp.zeros_like(g), grads, by_leaf)
        if config.max_grad_norm:
            clip = optax.clip_by_global_norm(config.max_grad_norm)
            grads, _ = clip.update(grads, optax.EmptyState())
        abstract = _without_arrays(params) if abstract is None else abstract
        updates, state = at(schedule(step), abstract).update(grads, state, params)
        return jax.tree.map(_times, updates, by_leaf), state

    return optax.GradientTransformationExtraArgs(init, update)


def on_mesh(
    optimizer: optax.GradientTransformationExtraArgs, state: TrainState
) -> optax.GradientTransformationExtraArgs:
    """The optimizer told where parameters lie, which may not change what it computes.

    state: ShapeDtypeStructs of the run's, with shardings.
    """

    def update(
        grads: Any, opt_state: Any, params: Any = None, *, network: str = "", **others: Any
    ) -> tuple[Any, Any]:
        abstract = state.companions[network].params if network else state.params
        return optimizer.update(
            grads, opt_state, params, network=network, abstract=abstract, **others
        )

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def check_named(config: OptimizerConfig, state: TrainState) -> None:
    """Raises ValueError for a pattern of the optimizer's that no parameter's name matches.

    state: its shapes will do.
    """
    names = trained_names(state)
    check_patterns("optimizer.freeze", config.freeze, names)
    patterns = [pattern for pattern, _ in _rate_factors(config)]
    check_patterns("optimizer.rate_factors", patterns, names)


def _rate_factors(config: OptimizerConfig) -> list[tuple[str, float]]:
    """(pattern, factor) of each entry. Raises ValueError for one that is not so."""
    found = []
    for entry in config.rate_factors:
        pattern, _, text = entry.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not pattern or not 0 < value < math.inf:
            raise ValueError(
                f"config.optimizer.rate_factors holds '{entry}'; expected PATTERN=FACTOR with a "
                "factor above 0, such as 'y_embedder/*=10' (config.optimizer.freeze is for 0)"
            )
        found.append((pattern, value))
    return found


def _without_arrays(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def _times(update: jax.Array, factor: float) -> jax.Array:
    """Exactly 0 of what is frozen, and the very update of what has no factor."""
    if factor == 0:
        return jnp.zeros_like(update)
    return update if factor == 1 else update * factor
