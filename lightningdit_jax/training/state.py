"""The state of a training run: a plain pytree, sharded and saved as one."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lightningdit_jax.averages import MAIN, average_decays, is_average, power_sigmas
from lightningdit_jax.tree_paths import named_leaves

# Fields, and items of a checkpoint, that hold what the last steps saw.
RECORDS = ("float8", "spikes")


@flax.struct.dataclass
class Companion:
    """A network trained beside the model, such as its discriminator.

    params and running stats: nested dicts of arrays (stats {} without any); opt_state: optax.
    """

    params: Any
    stats: Any
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """step: int32 []; params: nested dicts of arrays; opt_state: optax.

    averages: of params, by name (averages.py); companions: by name. Both are items of their own in
    a checkpoint, whose `params` are the model alone. float8: histories of its products
    (models.float8), spikes: windows of what is watched (training.spikes); {} and no item without.
    """

    step: jax.Array
    params: Any
    averages: dict[str, Any]
    opt_state: Any
    companions: dict[str, Companion] = flax.struct.field(default_factory=dict)
    float8: dict[str, Any] = flax.struct.field(default_factory=dict)
    spikes: dict[str, Any] = flax.struct.field(default_factory=dict)

    @property
    def ema(self) -> Any:
        """The average of train.ema_decay, None if off."""
        return self.averages.get(MAIN)

    def items(self) -> dict[str, Any]:
        """The array trees of a checkpoint, by item name."""
        trees = {"step": {"step": self.step}, "params": self.params, "opt_state": self.opt_state}
        trees |= {name: tree for name in RECORDS if (tree := getattr(self, name))}
        return trees | self.averages | self.companions

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """The inverse of `items`."""
        items = dict(items)
        return cls(
            step=items.pop("step")["step"],
            params=items.pop("params"),
            averages={name: items.pop(name) for name in list(items) if is_average(name)},
            opt_state=items.pop("opt_state"),
            **{name: items.pop(name, {}) for name in RECORDS},
            companions=items,
        )


def create_state(
    params: Any,
    optimizer: Any,
    *,
    ema: bool,
    ema_decays: Sequence[float] = (),
    ema_sigmas: Sequence[float] = (),
    companions: Mapping[str, tuple[Any, Any]] | None = None,
    float8: Mapping[str, Any] | None = None,
    spikes: Mapping[str, Any] | None = None,
) -> TrainState:
    """A state at step 0; averages start as exact copies of the weights.

    ema: whether there is the main one; ema_decays: of further ones; ema_sigmas: relative widths of
    power-function ones. companions: parameters and
    statistics by name; each has a state of the same optimizer. float8: fresh histories;
    spikes: fresh windows.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        averages={
            name: jax.tree.map(jnp.copy, params)
            for name in (*average_decays(float(ema), ema_decays), *power_sigmas(ema_sigmas))
        },
        opt_state=optimizer.init(params),
        companions={
            name: Companion(weights, stats, optimizer.init(weights))
            for name, (weights, stats) in (companions or {}).items()
        },
        float8=dict(float8 or {}),
        spikes=dict(spikes or {}),
    )


def trained_names(state: TrainState) -> list[str]:
    """Names of all parameters: the model's, and of companions with their name in front."""
    names = [name for name, _ in named_leaves(state.params)]
    for network, companion in state.companions.items():
        names += [f"{network}/{name}" for name, _ in named_leaves(companion.params)]
    return names


def fresh_average(params: Any, abstract: Any) -> Any:
    """A copy of the weights, sharded as `abstract`: ShapeDtypeStructs of the average."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)(params)


def filled(abstract: Any, value: float) -> Any:
    """Arrays of one value, sharded as `abstract`: ShapeDtypeStructs."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    full = functools.partial(
        jax.tree.map, lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), abstract
    )
    return jax.jit(full, out_shardings=shardings)()


def keep_finite(new: Any, old: Any, finite: jax.Array) -> Any:
    """`new` where finite, else `old`; trees of one structure. Bad numbers never enter the state."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
