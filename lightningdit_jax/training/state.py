"""The state of a training run: a plain pytree, sharded and saved as one."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


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
    """step: int32 []; params, ema: nested dicts of arrays (ema None if off); opt_state: optax.

    companions: by name; they are items of their own in a checkpoint, whose `params` are the model
    alone.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    companions: dict[str, Companion] = flax.struct.field(default_factory=dict)

    def items(self) -> dict[str, Any]:
        """The array trees of a checkpoint, by item name."""
        trees = {"step": {"step": self.step}, "params": self.params, "opt_state": self.opt_state}
        return trees | ({} if self.ema is None else {"ema": self.ema}) | self.companions

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """The inverse of `items`."""
        items = dict(items)
        return cls(
            step=items.pop("step")["step"],
            params=items.pop("params"),
            ema=items.pop("ema", None),
            opt_state=items.pop("opt_state"),
            companions=items,
        )


def create_state(
    params: Any,
    optimizer: Any,
    *,
    ema: bool,
    companions: Mapping[str, tuple[Any, Any]] | None = None,
) -> TrainState:
    """A state at step 0; the average starts as an exact copy of the weights.

    companions: parameters and statistics by name; each has a state of the same optimizer.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
        companions={
            name: Companion(weights, stats, optimizer.init(weights))
            for name, (weights, stats) in (companions or {}).items()
        },
    )


def fresh_average(params: Any, abstract: Any) -> Any:
    """A copy of the weights, sharded as `abstract`: ShapeDtypeStructs of the average."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)(params)


def keep_finite(new: Any, old: Any, finite: jax.Array) -> Any:
    """`new` where finite, else `old`; trees of one structure. Bad numbers never enter the state."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
