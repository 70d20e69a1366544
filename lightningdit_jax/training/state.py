"""The state of a training run: a plain pytree, sharded and saved as one."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """step: int32 []; params, ema: nested dicts of arrays (ema None if off); opt_state: optax."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any

    def items(self) -> dict[str, Any]:
        """The array trees of a checkpoint, by item name."""
        trees = {"step": {"step": self.step}, "params": self.params, "opt_state": self.opt_state}
        return trees if self.ema is None else trees | {"ema": self.ema}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """The inverse of `items`."""
        return cls(
            step=items["step"]["step"],
            params=items["params"],
            ema=items.get("ema"),
            opt_state=items["opt_state"],
        )


def create_state(params: Any, optimizer: Any, *, ema: bool) -> TrainState:
    """A state at step 0; the average starts as an exact copy of the weights."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
    )
