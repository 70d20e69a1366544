"""Reads the items of a checkpoint directory, and asks whether they are what was saved.

Imports nothing of ours but what digests are, how the folder of a hub's repository is read, and
what a storage refuses.
"""

import contextlib
import errno
import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax import hub_folder
from lightningdit_jax.array_digest import ArrayDigest, differing, tree_digests
from lightningdit_jax.atomic_file import read_json as read_json_file
from lightningdit_jax.checkpoint_digests import ITEM, ArrayDigests, Digests
from lightningdit_jax.errors import listed
from lightningdit_jax.hub import renewal
from lightningdit_jax.object_stores import refusal_of_store
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.tree_paths import named_leaves
from lightningdit_jax.verification import is_verifying

Tree = Any

_MISSING = {errno.ENOENT, errno.ENOTDIR}


class DamagedCheckpointError(ValueError):
    """What a checkpoint holds is not what was saved, or cannot be read at all."""

    def __init__(self, checkpoint: epath.Path, reason: str):
        super().__init__(
            f"{checkpoint} is damaged: {reason}; {renewal(checkpoint)}, or name another "
            "(--mode=verify says which are whole, --verify=off takes what can be read)"
        )
        self.checkpoint, self.reason = checkpoint, reason


def read_json(checkpoint: epath.Path, item: str) -> dict:
    """Reads one JSON item. Raises FileNotFoundError, and ValueError for a damaged one."""
    if item == "meta" and hub_folder.is_hub_folder(checkpoint):
        return hub_folder.read_config(checkpoint)["meta"]
    return read_json_file(checkpoint / item / "metadata")


def digests_of(checkpoint: epath.Path) -> Digests | None:
    """A checkpoint's digests; None where an older version wrote none, and within verifying(False).

    Raises ValueError where they are missing or damaged.
    """
    if not is_verifying():
        return None
    try:
        return Digests(checkpoint)
    except (FileNotFoundError, NotADirectoryError):
        with contextlib.suppress(FileNotFoundError):
            if ITEM in read_json(checkpoint, "meta"):
                raise ValueError(f"its item '{ITEM}' is missing") from None
        return None


def read_items(checkpoint: epath.Path, abstract: Mapping[str, Tree]) -> dict[str, Tree]:
    """Reads items into the shapes, types and shardings of `abstract`, and verifies each array.

    All processes must call it. Raises, in all alike, DamagedCheckpointError, which names the
    arrays, and ValueError where others were saved than `abstract` asks for; and OSError where the
    file system refuses.
    """
    digests = digests_of(checkpoint)
    if digests is None:
        if is_verifying():
            warn_once(f"{checkpoint} has no digests, an older version wrote it: not verified")
    else:
        for item, tree in abstract.items():
            _check_asked(checkpoint, item, tree, digests.arrays)
    trees, found, problem = {}, {}, ""
    for item, tree in abstract.items():
        try:
            trees[item] = _read(checkpoint, item, tree)
        except DamagedCheckpointError as error:  # others may wait for the sums
            problem = problem or error.reason
            trees[item] = None
        found[item] = {} if digests is None else tree_digests(trees[item])
    if jax.process_count() > 1:
        found, problem = _of_all_processes(abstract, found, problem)
    if problem:
        raise DamagedCheckpointError(checkpoint, problem)
    if digests is not None and (wrong := wrong_arrays(found, digests.arrays)):
        raise DamagedCheckpointError(checkpoint, listed(wrong))
    return trees


def wrong_arrays(found: ArrayDigests, saved: ArrayDigests) -> list[str]:
    """What is not as it was saved, of the items in `found`, in words: "'ITEM/NAME' holds ..."."""
    return [
        f"'{item}/{name}' {how}"
        for item, arrays in found.items()
        for name, how in differing(arrays, saved.get(item, {})).items()
    ]


@functools.cache
def warn_once(line: str) -> None:
    """Says a line, on the main process, the first time."""
    if jax.process_index() == 0:
        logging.warning("%s", line)


def _check_asked(checkpoint: epath.Path, item: str, tree: Tree, saved: ArrayDigests) -> None:
    asked = {name: (str(leaf.dtype), tuple(leaf.shape)) for name, leaf in named_leaves(tree)}
    there = {name: (digest.dtype, digest.shape) for name, digest in saved.get(item, {}).items()}
    if asked != there:
        names = [n for n in {**asked, **there} if asked.get(n) != there.get(n)]
        first = names[0]
        raise ValueError(
            f"{checkpoint} holds other arrays than are asked for: '{item}/{first}' is "
            f"{there.get(first)}, asked for is {asked.get(first)}; {len(names)} differ"
        )


def array_metadata(checkpoint: epath.Path, item: str) -> Tree:
    """The tree of one item without its arrays, leaves with shape and dtype.

    Raises DamagedCheckpointError, and OSError where the file system refuses.
    """
    if hub_folder.is_hub_folder(checkpoint):
        return _asked(checkpoint, item, lambda: Digests(checkpoint).tree(item))
    handler = ocp.StandardCheckpointHandler()
    return _asked(checkpoint, item, lambda: handler.metadata(checkpoint / item).tree)


def _read(checkpoint: epath.Path, item: str, abstract: Tree) -> Tree:
    if hub_folder.is_hub_folder(checkpoint):
        return _asked(checkpoint, item, lambda: hub_folder.read_item(checkpoint, item, abstract))
    handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(abstract)
    return _asked(checkpoint, item, lambda: handler.restore(checkpoint / item, args=args))


def _asked(checkpoint: epath.Path, item: str, ask: Callable[[], Tree]) -> Tree:
    """What Orbax, or a reader of files, answers; its errors as those that they stand for."""
    try:
        return ask()
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise
    # Orbax and TensorStore raise nearly anything, some of it that very class.
    except Exception as error:
        number = _os_error(error)
        if number is not None and number not in _MISSING:
            raise OSError(number, os.strerror(number), str(checkpoint / item)) from error
        # A checkpoint that cannot be reached now is not a damaged one, which would be set aside.
        if refused := refusal_of_store(error.__cause__ or error):
            raise StorageError(f"{checkpoint / item}: {'; '.join(refused)}") from error
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        reason = reason.partition(" [tensorstore_spec")[0][:200] or type(error).__name__
        why = f"item '{item}' cannot be read ({reason})"
        raise DamagedCheckpointError(checkpoint, why) from error


def _os_error(error: BaseException) -> int | None:
    """The number of the file system's error behind another, None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    if said := re.search(r"\[OS error (\d+)", str(error)):
        return int(said[1])
    return _os_error(error.__cause__) if error.__cause__ else None


def _of_all_processes(
    abstract: Mapping[str, Tree], found: ArrayDigests, problem: str
) -> tuple[ArrayDigests, str]:
    """Digests of whole arrays, and the problem of one process, in each."""
    leaves = [(i, name, leaf) for i, tree in abstract.items() for name, leaf in named_leaves(tree)]
    # The first row says whether there is a problem; numbers are of 32 bits, as JAX's are.
    rows = np.zeros((len(leaves) + 1, 4), np.uint32)
    rows[0] = bool(problem)
    for row, (item, name, _) in enumerate(leaves, 1):
        if (digest := found[item].get(name)) is not None:
            rows[row] = (*divmod(digest.elements, 2**32), *digest.sums)
    total = multihost_utils.process_allgather(rows).astype(np.uint64).sum(0)
    if total[0, 0]:
        if problem:
            logging.warning("process %d: %s", jax.process_index(), problem)
        return {}, problem or "another process cannot read its part; its output says why"
    sums: ArrayDigests = {item: {} for item in found}
    for (item, name, leaf), (high, low, first, second) in zip(leaves, total[1:].tolist()):
        if name in found[item]:
            elements, pair = high * 2**32 + low, (first % 2**32, second % 2**32)
            sums[item][name] = ArrayDigest(str(leaf.dtype), tuple(leaf.shape), elements, pair)
    return sums, ""
