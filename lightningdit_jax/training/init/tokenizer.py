"""The weights that a tokenizer which trains beside its generator begins from: config.repae.init."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.checkpoint import newest_of_run
from lightningdit_jax.config import Config
from lightningdit_jax.errors import renamed_key
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.training.companions import DISCRIMINATOR, LATENT_NORM, LINEAR_PROJ, TOKENIZER
from lightningdit_jax.training.init.source import Source, open_source
from lightningdit_jax.training.init.start import origin_of, read_companion, read_weights
from lightningdit_jax.training.init.takeover import Takeover, plan_takeover
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.tree_paths import map_named, named_leaves


def open_tokenizer(config: Config, workdir: str) -> Source | None:
    """What a new run's tokenizer begins from; None for a fresh one and for a run that goes on.

    Raises as open_source.
    """
    if not config.is_joint or not config.repae.init:
        return None
    if (newest := newest_of_run(workdir)) is not None:
        print_once(f"config.repae.init is of new runs; this one goes on from {newest}")
        return None
    with renamed_key("train.init", "repae.init"):
        return open_source(_alone(config))


def plan_tokenizer(config: Config, source: Source, shapes: TrainState) -> Takeover:
    """As plan_takeover, of the tokenizer and what trains beside one. shapes: of the run's state."""
    beside = (DISCRIMINATOR, LINEAR_PROJ)
    companions = {n: c for n, c in shapes.companions.items() if n in beside}
    own = dataclasses.replace(
        shapes, params=shapes.companions[TOKENIZER].params, companions=companions
    )
    with renamed_key("train.init", "repae.init"):
        return plan_takeover(_alone(config), source, own)


def begin_with_tokenizer(
    takeover: Takeover, make_state: Callable[[], TrainState], abstract: TrainState, mesh: Mesh
) -> tuple[Callable[[], TrainState], dict[str, Any]]:
    """(make_state, origin) as of `begin`: the state of another make_state with these weights.

    The running statistics of the norm begin as the source says that its latents are scaled, else,
    with a line, at a mean of 0 and a variance of 1. All processes must call it.
    """
    source = takeover.source
    with renamed_key("train.init", "repae.init"):
        weights = read_weights(source, abstract.companions[TOKENIZER].params)
        beside = {name: read_companion(source, name, mesh) for name in takeover.companions}
    held = [(weights, beside)]
    if (scaling := source.scaling) is None:
        print_once(
            f"{source.checkpoint} does not say how its latents are scaled: the running statistics "
            "of their norm begin at mean 0 and variance 1, and are the data's after some tens of "
            "steps"
        )

    def make() -> TrainState:
        state = make_state()
        weights, beside = held.pop()
        taken = {TOKENIZER: dataclasses.replace(state.companions[TOKENIZER], params=weights)}
        for name, (params, stats) in beside.items():
            fresh = state.companions[name]
            params, stats = _shaped(params, fresh.params), _shaped(stats, fresh.stats)
            taken[name] = dataclasses.replace(fresh, params=params, stats=stats)
        if scaling is not None:
            norm = state.companions[LATENT_NORM]
            stats = _placed(_statistics(scaling, norm.stats), norm.stats)
            taken[LATENT_NORM] = dataclasses.replace(norm, stats=stats)
        return dataclasses.replace(state, companions={**state.companions, **taken})

    return make, origin_of(takeover, weights_fingerprint(weights))


def _alone(config: Config) -> Config:
    """The config as that of a tokenizer's run which begins from config.repae.init."""
    keys = {"init": config.repae.init, "init_weights": "ema", "init_exclude": ()}
    return config.changed(kind="vavae", train=keys)


def _statistics(scaling: LatentScaling, like: Any) -> Any:
    """Mean and variance [C] of latents that are scaled so."""
    mean = jnp.zeros_like(like["mean"]) if scaling.mean is None else jnp.asarray(scaling.mean)
    std = jnp.ones_like(mean) if scaling.std is None else jnp.asarray(scaling.std)
    return {"mean": mean, "var": jnp.square(std / scaling.multiplier)}


def _shaped(tree: Any, like: Any) -> Any:
    """The same leaves by name in the structure of `like`: a checkpoint has text for its indices."""
    leaves = dict(named_leaves(tree))
    return map_named(lambda name, leaf: leaves[name], like)


def _placed(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), tree, like)
