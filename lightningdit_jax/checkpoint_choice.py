"""Which checkpoint of a run counts: the newest complete one, decided for all processes alike.

Imports nothing of ours but how one is read.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax.checkpoint_reading import digests_of, read_json, warn_once
from lightningdit_jax.errors import listed
from lightningdit_jax.hub_folder import is_hub_folder, missing_weights

# The newest complete checkpoint, and what newer ones lack.
Found = tuple[epath.Path | None, dict[epath.Path, str]]


def defect(checkpoint: epath.Path) -> str | None:
    """What a checkpoint directory lacks, in words; None for a complete one.

    The arrays themselves are not read. What the file system refuses to tell (permissions, a mount
    that is gone, a passing error) is no defect and raises its OSError.
    """
    if not any(checkpoint.iterdir()):
        return "it is empty"
    item = "meta"
    try:
        meta = read_json(checkpoint, item)
        values = {item: meta}
        if is_hub_folder(checkpoint):
            missing = missing_weights(checkpoint)
            return f"it lacks {listed(missing)}" if missing else _changed(checkpoint, values)
        step = checkpoint.name
        if step.isdigit() and str(meta.get("step", step)) != step:
            return f"it says that it is of step {meta['step']}"
        # Orbax writes what an item holds, and JSON itself, into a file of one of these names.
        for item in meta.get("items", ["params"]):  # older checkpoints name none
            try:
                values[item] = read_json(checkpoint, item)
            except FileNotFoundError:
                # Opened, since exists() takes every error for absence.
                with (checkpoint / item / "_METADATA").open("rb") as file:
                    file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return f"its item '{item}' is missing"
    except (ValueError, TypeError, AttributeError) as error:
        return f"its JSON cannot be read ({str(error).splitlines()[0]})"
    return _changed(checkpoint, values)


def _changed(checkpoint: epath.Path, values: Mapping[str, Any]) -> str | None:
    """What JSON items, by name, are other than their digests say, in words."""
    try:
        digests = digests_of(checkpoint)
    except ValueError as error:
        return str(error)
    changed = digests.changed_json(values) if digests else []
    return f"its JSON is not as it was saved ({', '.join(changed)})" if changed else None


def newest_complete(folder: epath.Path, before: float = math.inf) -> Found:
    """The newest complete checkpoint of a run, and what each newer one lacks, newest first.

    before: of those of smaller steps. One that a process did not live to finish is neither.
    """
    damaged: dict[epath.Path, str] = {}
    for path in reversed(finalized_steps(folder)):
        if int(path.name) >= before:
            continue
        lacks = defect(path)
        if lacks is None:
            return path, damaged
        damaged[path] = lacks
    return None, damaged


def finalized_steps(folder: epath.Path) -> list[epath.Path]:
    """The checkpoints of a run that are finalized, in order; none where there is no folder."""
    # A store's is_dir() takes what it refuses for absence.
    if "://" not in str(folder) and not folder.is_dir():
        return []
    try:
        there = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(filter(is_finalized_step, there), key=lambda path: int(path.name))


def is_finalized_step(path: epath.Path) -> bool:
    """An object store has no renaming: there a checkpoint has its name before it is complete."""
    return path.name.isdigit() and path.is_dir() and ocp.utils.is_checkpoint_finalized(path)


@dataclasses.dataclass(frozen=True)
class Decision:
    """complete: the newest. num_damaged: how many are newer; only the main process has them."""

    complete: epath.Path | None
    num_damaged: int
    damaged: Mapping[epath.Path, str]


def decided(directory: epath.Path, find: Callable[[], Found]) -> Decision:
    """What the main process finds, in all: a view of their own might send them other ways."""
    complete, error = None, None
    damaged: Mapping[epath.Path, str] = {}
    if jax.process_index() == 0:
        try:
            complete, damaged = find()
        except Exception as raised:  # the others wait for an answer
            error = raised
    step = -1 if complete is None else int(complete.name)
    answer = np.array([-1 if error else len(damaged), step], np.int32)
    num_damaged, step = map(int, multihost_utils.broadcast_one_to_all(answer))
    if error:
        raise error
    if num_damaged < 0:
        raise ValueError(f"the main process cannot go on from {directory}; its output says why")
    return Decision(None if step < 0 else directory / str(step), num_damaged, damaged)


def to_go_on_from(directory: epath.Path, anew: bool) -> Found:
    """As `newest_complete`; raises ValueError where a run can neither go on nor begin."""
    for path in (directory.parent, directory):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; expected a folder, or nothing, for checkpoints")
    complete, damaged = newest_complete(directory)
    if damaged and complete is None and not anew:
        raise ValueError(
            f"{directory} holds no complete checkpoint, but damaged ones: {listing(damaged)}; "
            "copy them again, or remove them or choose another --workdir to start anew"
        )
    return complete, damaged


def rename_damaged(decision: Decision) -> None:
    """Renames the damaged: Orbax takes a folder of a later step for a reason not to save."""
    if not decision.num_damaged:
        return
    for path in decision.damaged:
        target = path.with_name(f"{path.name}.damaged")
        while target.exists():
            target = target.with_name(f"{target.name}.damaged")
        path.rename(target)
    renamed = f"passed over as DAMAGED, renamed to STEP.damaged: {listing(decision.damaged)}"
    warn_once(f"{renamed}; taken instead: {decision.complete or 'none'}")
    multihost_utils.sync_global_devices("damaged checkpoints are set aside")


def listing(damaged: Mapping[epath.Path, str]) -> str:
    return ", ".join(f"{path} ({lacks})" for path, lacks in damaged.items())
