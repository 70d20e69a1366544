"""A run's state from its newest checkpoint, which other settings may have written."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from lightningdit_jax.averages import MAIN, is_average, is_power_average
from lightningdit_jax.checkpoint import TrainingCheckpoints, item_names
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError, array_metadata
from lightningdit_jax.training.state import RECORDS, TrainState, filled, fresh_average
from lightningdit_jax.tree_paths import named_leaves

# What a record that begins empty is filled with, and what is said.
_EMPTY = {
    "float8": (0.0, "float8 products: their scales begin anew"),
    "spikes": (math.inf, "window of this size for train.spikes: it begins empty"),
}


def restore_state(
    checkpoints: TrainingCheckpoints, abstract: TrainState, say: Callable[[str], None]
) -> tuple[TrainState, int, dict]:
    """(state, step, the loop's own values) of the newest checkpoint; there has to be one.

    Averages that the run keeps and the checkpoint lacks start from its weights; those that the run
    does not keep stay behind. Both are said. Records of float8 products and spikes that it
    lacks, or has of other shapes, begin empty. abstract: shapes and shardings of the state. Raises
    ValueError as check_optimizer, and DamagedCheckpointError.
    """
    checkpoints.wait()
    step = checkpoints.latest_step()
    folder = checkpoints.directory / str(step)
    found = item_names(folder)
    fresh = {name: tree for name, tree in abstract.averages.items() if name not in found}
    empty = [
        name
        for name in RECORDS
        if (tree := getattr(abstract, name))
        and (name not in found or _shapes(array_metadata(folder, name)) != _shapes(tree))
    ]
    nothing: dict[str, Any] = {name: {} for name in empty}
    held = dataclasses.replace(abstract, **nothing)
    wanted = {name: tree for name, tree in held.items().items() if name not in fresh}
    check_optimizer(folder, wanted["opt_state"])
    restored = checkpoints.restore(wanted, ("loop",), step)
    state = TrainState.from_items(restored.arrays)
    if (of_step := int(state.step)) != step:
        raise DamagedCheckpointError(folder, f"it holds the state of step {of_step:,}")
    averages = {name: fresh_average(state.params, tree) for name, tree in fresh.items()}
    state = dataclasses.replace(state, averages=state.averages | averages)
    for name in empty:
        value, line = _EMPTY[name]
        tree = filled(getattr(abstract, name), value)
        state = dataclasses.replace(state, **{name: tree})
        say(f"step {step:,} has no {line}")
    for name in fresh:
        say(f"step {step:,} has no {_called(name)}: they start as a copy of its weights")
    for name in sorted(filter(is_average, found - wanted.keys())):
        key = "ema_decay is 0" if name == MAIN else "ema_decays is without its decay"
        if is_power_average(name):
            key = "ema_sigmas is without its width"
        say(
            f"config.train.{key}: the {_called(name)} of step {step:,} end here; "
            f"{folder} holds them until newer checkpoints take its place, copy it to keep them"
        )
    return state, restored.step, restored.json["loop"]


def _called(average: str) -> str:
    return "averaged weights" if average == MAIN else f"averaged weights {average}"


def check_optimizer(folder: epath.Path, wanted: Any) -> None:
    """Raises ValueError where a checkpoint's optimizer has a state of other names than `wanted`."""
    if _names(array_metadata(folder, "opt_state")) != _names(wanted):
        raise ValueError(
            f"{folder} holds an optimizer's state of another layout, of another "
            "config.optimizer.name, or as former versions wrote it with clipping or warm-up on; go "
            "on with that optimizer, or that version, or choose another --workdir"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}


def _names(tree: Any) -> set[str]:
    return {name for name, _ in named_leaves(tree)}
