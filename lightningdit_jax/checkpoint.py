"""Orbax checkpoints over plain pytrees: every part of a run is an item of its own.

A checkpoint is a directory with one Orbax item per array tree (`params`, and where they exist
`ema`, `opt_state`) and JSON items (`meta`: kind, architecture, step, config, names of all items;
`loop`: data position, metrics of the unfinished logging window), and their digests
(checkpoint_digests). It is complete if all of that is there (checkpoint_choice); a copy that was
cut off is not, and counts nowhere. Arrays are compared with their digests when they are read
(checkpoint_reading). A training run keeps checkpoints as WORKDIR/checkpoints/STEP, the weights of
its best evaluation as WORKDIR/best/STEP, and averages alone as WORKDIR/snapshots/STEP; a converted
checkpoint is one such directory alone.
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN
from orbax.checkpoint.options import AsyncOptions

from lightningdit_jax import checkpoint_digests
from lightningdit_jax.atomic_file import flush_to_disk
from lightningdit_jax.checkpoint_choice import (
    Found,
    decided,
    defect,
    is_finalized_step,
    listing,
    newest_complete,
    rename_damaged,
    to_go_on_from,
)
from lightningdit_jax.checkpoint_meta import wrong_field
from lightningdit_jax.checkpoint_reading import (
    DamagedCheckpointError,
    read_items,
    read_json,
    warn_once,
)
from lightningdit_jax.checkpoint_writing import device_handlers, of_devices, of_host
from lightningdit_jax.hub import is_address, renewal
from lightningdit_jax.hub_folder import INDEX_FILE, WEIGHTS_FILE, fetch_folder, is_hub_folder
from lightningdit_jax.storage_errors import StorageError, check_absent, storage_error, storing

FORMAT_VERSION = 1
CHECKPOINTS, SNAPSHOTS = "checkpoints", "snapshots"  # folders of a workdir
UNFINISHED = ".orbax-checkpoint-tmp"  # in Orbax's names of what is not complete
# Seconds that Orbax gives a save, by the wall clock: one that is set forward by its 1,200 failed
# the save (findings/orbax_timeout_by_wall_clock.sh). Processes that are gone are noticed elsewhere.
_NO_LIMIT = 10**9

Tree = Any
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back: `arrays` and `json` by item name."""

    step: int
    arrays: dict[str, Tree]
    json: dict[str, dict]


class TrainingCheckpoints:
    """The checkpoints of one run under WORKDIR/FOLDER, written in the background.

    keep: how many of the newest stay, None for all. keep_every: those whose step it divides stay
    too; 0 is none. Damaged ones that are newer than the newest complete one are renamed to
    STEP.damaged, with a line: the run is going to reach their steps again. Raises what
    `newest_of_run` raises; `anew` says that the run may begin without damaged ones. All processes
    must make it, and the main one decides which are damaged. What was never finished is removed.
    One has its name, and older ones go, when it is on disk. Whatever writes raises StorageError.
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep: int | None,
        keep_every: int = 0,
        folder: str = CHECKPOINTS,
        anew: bool = False,
    ):
        self.directory = absolute(workdir) / folder
        rename_damaged(decided(self.directory, lambda: to_go_on_from(self.directory, anew)))
        policies = [LatestN(keep), *([EveryNSteps(keep_every)] if keep_every else [])]
        with storing(self.directory):
            self._manager = ocp.CheckpointManager(
                self.directory,
                handler_registry=device_handlers(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy(policies),
                    create=True,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    async_options=AsyncOptions(
                        timeout_secs=_NO_LIMIT, post_finalization_callback=self._flush
                    ),
                ),
            )

    def _flush(self) -> None:
        # Orbax calls it when all is written, before it gives the name; of its files only those
        # that TensorStore writes are on disk then.
        for unfinished in self.directory.glob(f"*{UNFINISHED}*"):
            flush_to_disk(unfinished)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, as `find_checkpoint` finds it."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> None:
        """Starts writing; the arrays may be donated and the JSON values changed afterwards."""
        # JSON is written later, by another thread.
        arguments = of_devices(arrays, copy.deepcopy(dict(json)))
        self.wait()
        with storing(self.directory):
            self._manager.save(step, args=arguments)

    def check(self) -> None:
        """Raises what went wrong in the background so far; waits for nothing."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def delete(self, step: int) -> None:
        """Removes a complete checkpoint."""
        with storing(self.directory):
            self._manager.delete(step)

    def restore(
        self, abstract: Mapping[str, Tree], json: tuple[str, ...], step: int | None = None
    ) -> Restored:
        """Reads the items of `abstract` (ShapeDtypeStruct with sharding) and the JSON items.

        Raises as read_items, all processes alike.
        """
        self.wait()
        step = self.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"no checkpoint under {self.directory}")
        path = self.directory / str(step)
        values = {name: read_json(path, name) for name in json}
        return Restored(step, read_items(path, abstract), values)

    def wait(self) -> None:
        """Blocks until everything started is on disk; raises what went wrong in the background."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            # Of a folder that vanished, and of a bucket, it is said in many ways.
            reason = (str(error) or repr(error)).splitlines()[0]
            line = f"{self.directory}: a checkpoint could not be written: {reason}"
            raise storage_error(error, self.directory) or StorageError(line) from error

    def close(self) -> None:
        """Waits and releases the writer."""
        self.wait()
        with storing(self.directory):
            self._manager.close()

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Closes, but after StorageError: what waits for that storage might wait for long."""
        if not isinstance(error, StorageError):
            self.close()


def save_checkpoint(path: str, arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> None:
    """Writes one checkpoint directory; it appears under its name only when complete.

    Takes little memory beside the arrays, which are on the host: Orbax copies them and collects
    what it compresses unless told otherwise. In chunks, so that a device reads its shard alone.
    """
    handlers, args = of_host(arrays, json)
    with storing(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as writer:
        writer.save(absolute(path), args=args)
        flush_to_disk(absolute(path))


def find_checkpoint(path: str) -> epath.Path:
    """The checkpoint directory that `path` means: itself, or the newest complete one of a run.

    path: a checkpoint directory, a workdir, or its `checkpoints` folder; the folder of a hub's
    repository (hub_folder), or its address, hf://OWNER/NAME. Newer ones that are damaged are named
    in a line. Raises FileNotFoundError, which says what is missing, StorageError where that cannot
    be known (permissions, a store that refuses), and of an address as fetch_folder.
    """
    root = fetch_folder(path) if is_address(path) else absolute(path)
    if root.exists() and not root.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {root}: it is a file; weights of PyTorch become a checkpoint by "
            f"python convert_torch_weights.py --src {path} --dst FOLDER"
        )
    if not root.is_dir():
        check_absent(root)
        advice = ""
        if re.fullmatch(r"[\w-]+/[\w.-]+", str(path)):
            advice = (
                f"; a repository of the hub is hf://{path}, and the released ones are fetched by "
                "scripts/download_weights.py"
            )
        raise FileNotFoundError(f"no checkpoint at {root}: there is no such directory{advice}")
    if (root / "meta").is_dir() or is_hub_folder(root):
        if lacks := defect(root):
            raise FileNotFoundError(f"{root} is no complete checkpoint: {lacks}; {renewal(root)}")
        return root
    for folder in (root / CHECKPOINTS, root):
        complete, damaged = newest_complete(folder)
        if complete is None and damaged:
            raise FileNotFoundError(
                f"no complete checkpoint in {folder}: {listing(damaged)}; copy them again"
            )
        if complete is not None:
            if damaged:
                warn_once(f"taken {complete}, passed over as damaged: {listing(damaged)}")
            return complete
    if "://" in str(root) and any((root / name).exists() for name in (WEIGHTS_FILE, INDEX_FILE)):
        raise ValueError(f"{root} is of save_for_hub and remote; copy it to a local disk first")
    raise FileNotFoundError(
        f"no checkpoint at {root}: expected a folder with 'meta' and 'params', or a workdir with "
        "'checkpoints/STEP', or what ldj.save_for_hub writes; train first, or convert weights with "
        "convert_torch_weights.py"
    )


def use_checkpoint(path: str, use: Callable[[epath.Path], Result]) -> Result:
    """use(checkpoint) of the checkpoint that `path` means, as find_checkpoint has it.

    Where `path` is a run, and arrays that are read turn out to be damaged, of the next older one,
    with a line: what is made of weights says which step they are of. Raises what `use` raises.
    """
    checkpoint = find_checkpoint(path)
    while True:
        try:
            return use(checkpoint)
        except DamagedCheckpointError as error:
            given = is_address(path) or checkpoint == absolute(path)
            if given or error.checkpoint != checkpoint:
                raise
            older, damaged = newest_complete(checkpoint.parent, before=int(checkpoint.name))
            if older is None:
                raise
            damaged = {checkpoint: error.reason, **damaged}
        warn_once(f"taken {older}, passed over as damaged: {listing(damaged)}")
        checkpoint = older


def newest_of_run(workdir: str) -> epath.Path | None:
    """The complete checkpoint that TrainingCheckpoints would go on from; None for a new run.

    Changes nothing. All processes must ask, and get what the main one finds. Raises ValueError
    where WORKDIR/checkpoints cannot be a folder or holds none but damaged ones. The main process
    raises what it meets, OSError too, and the others a ValueError.
    """
    directory = absolute(workdir) / CHECKPOINTS
    return decided(directory, lambda: to_go_on_from(directory, anew=False)).complete


def set_aside(workdir: str, damaged: DamagedCheckpointError) -> None:
    """Renames a checkpoint of a run, from which it cannot go on, to STEP.damaged, with a line.

    All processes must call it. Raises the error again where the checkpoint is not one of this
    run's, or the run has no complete one before it.
    """
    directory, path = absolute(workdir) / CHECKPOINTS, damaged.checkpoint
    if path.parent != directory:
        raise damaged

    def older() -> Found:
        complete, others = newest_complete(directory, before=int(path.name))
        if complete is None:
            raise damaged
        return complete, {path: damaged.reason, **others}

    rename_damaged(decided(directory, older))


def is_saved(workdir: str, step: int) -> bool:
    """Whether the checkpoint of this step of a run is on disk and complete."""
    return is_finalized_step(absolute(workdir) / CHECKPOINTS / str(step))


def read_meta(checkpoint: epath.Path) -> dict:
    """What the checkpoint says of itself: kind, architecture, step, config, latent statistics."""
    meta = read_json(checkpoint, "meta")
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{checkpoint} has format version {meta.get('format_version')!r:.40}; "
            f"this program reads version {FORMAT_VERSION}"
        )
    if wrong := wrong_field(meta):
        raise ValueError(f"{checkpoint / 'meta'} is damaged: {wrong}")
    return meta


def read_model_meta(checkpoint: epath.Path) -> dict:
    """As read_meta, of a checkpoint of weights. Raises ValueError where it does not say of what."""
    meta = read_meta(checkpoint)
    if lacking := [name for name in ("kind", "architecture", "step") if name not in meta]:
        raise ValueError(f"{checkpoint} does not say its {', '.join(lacking)}; copy it again")
    return meta


def architecture_fields(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the architecture in a checkpoint's meta; JSON's lists are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in meta["architecture"].items()}


def item_names(checkpoint: epath.Path) -> set[str]:
    """Names of the items in a checkpoint directory."""
    if is_hub_folder(checkpoint):
        return set(read_meta(checkpoint).get("items", ["params"]))
    names = {p.name for p in checkpoint.iterdir() if p.is_dir()}
    return names - {checkpoint_digests.ITEM}


def read_arrays(checkpoint: epath.Path, item: str, abstract: Tree) -> Tree:
    """Reads one item into the shapes, types and shardings of `abstract`; raises as read_items."""
    return read_items(checkpoint, {item: abstract})[item]


def read_host_arrays(checkpoint: epath.Path, item: str, abstract: Tree) -> Tree:
    """As read_arrays, as numpy: no accelerator is touched."""
    device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), abstract
    )
    return jax.tree.map(np.asarray, read_arrays(checkpoint, item, abstract))


def absolute(path: epath.PathLike) -> epath.Path:
    """A path as Orbax takes it: relative ones it refuses, some only in the background."""
    if "://" in str(path):  # resolve() would take it for a relative path
        return epath.Path(path)
    return epath.Path(path).expanduser().resolve()
