"""Orbax checkpoints over plain pytrees: every part of a run is an item of its own.

A checkpoint is a directory with one Orbax item per array tree (`params`, and where they exist
`ema`, `opt_state`) and JSON items (`meta`: kind, architecture, step, config; `loop`: data position,
metrics of the unfinished logging window). A training run keeps them as WORKDIR/checkpoints/STEP,
and the weights of its best evaluation as WORKDIR/best/STEP; a converted checkpoint is one such
directory alone.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

FORMAT_VERSION = 1
_CHUNK_BYTES = 2**25

Tree = Any


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back: `arrays` and `json` by item name."""

    step: int
    arrays: dict[str, Tree]
    json: dict[str, dict]


class TrainingCheckpoints:
    """The checkpoints of one run under WORKDIR/FOLDER, written in the background."""

    def __init__(self, workdir: str, *, keep: int, folder: str = "checkpoints"):
        self.directory = _absolute(workdir) / folder
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=True
            ),
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint; half-written ones do not count."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> None:
        """Starts writing; the arrays may be donated and the JSON values changed afterwards."""
        # JSON is written later, by another thread.
        self._manager.save(step, args=_save_args(arrays, copy.deepcopy(dict(json))))

    def delete(self, step: int) -> None:
        """Removes a complete checkpoint."""
        self._manager.delete(step)

    def restore(
        self, abstract: Mapping[str, Tree], json: tuple[str, ...], step: int | None = None
    ) -> Restored:
        """Reads the items of `abstract` (ShapeDtypeStruct with sharding) and the JSON items."""
        self.wait()
        step = self.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"no checkpoint under {self.directory}")
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()},
                **{name: ocp.args.JsonRestore() for name in json},
            ),
        )
        return Restored(
            step, {name: items[name] for name in abstract}, {name: items[name] for name in json}
        )

    def wait(self) -> None:
        """Blocks until everything started is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the writer."""
        self._manager.close()


class BestCheckpoint:
    """The weights of the run's best evaluation so far, WORKDIR/best/STEP; lower is better.

    Its meta says which metric it is the best by, and the value: what is on disk is what a
    restarted run compares with. A checkpoint of another metric counts as none.
    """

    def __init__(self, workdir: str, metric: str):
        self.metric, self.value = metric, math.inf
        self._checkpoints = TrainingCheckpoints(workdir, keep=1, folder="best")
        step = self._checkpoints.latest_step()
        if step is not None:
            best = read_meta(self._checkpoints.directory / str(step))["best"]
            if best["metric"] == metric:
                self.value = best["value"]

    def offer(self, step: int, value: float, arrays: Mapping[str, Tree], meta: dict) -> bool:
        """Keeps these weights, and returns True, if the value is lower than the one so far.

        All processes must call it with the same value. Complete on return; the former best is
        removed only then. A value that is not a number is never the best.
        """
        if not value < self.value:
            return False
        latest = self._checkpoints.latest_step()
        if latest is not None and latest >= step:  # of a run that was rolled back since
            self._checkpoints.delete(latest)
        best = {"metric": self.metric, "value": value}
        self._checkpoints.save(step, arrays, {"meta": {**meta, "step": step, "best": best}})
        self._checkpoints.wait()
        self.value = value
        return True

    def close(self) -> None:
        """Releases the writer."""
        self._checkpoints.close()


def save_checkpoint(path: str, arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> None:
    """Writes one checkpoint directory; it appears under its name only when complete.

    Takes little memory beside the arrays, which are on the host: Orbax copies them and collects
    what it compresses unless told otherwise. In chunks, so that a device reads its shard alone.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    chunks = ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)
    handlers: dict[str, Any] = {}
    items: dict[str, Any] = {}
    for name, tree in arrays.items():
        tree = jax.tree.map(np.asarray, tree)
        save_args = jax.tree.map(lambda _: chunks, tree)
        items[name] = ocp.args.PyTreeSave(tree, save_args=save_args)
        handlers[name] = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False, type_handler_registry=registry
        )
    for name, value in json.items():
        items[name] = ocp.args.JsonSave(value)
        handlers[name] = ocp.JsonCheckpointHandler()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as writer:
        writer.save(_absolute(path), args=ocp.args.Composite(**items))


def find_checkpoint(path: str) -> epath.Path:
    """The checkpoint directory that `path` means: itself, or the newest of a run.

    path: a checkpoint directory, a workdir, or its `checkpoints` folder. Raises FileNotFoundError.
    """
    root = _absolute(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no checkpoint at {root}: there is no such directory")
    if (root / "meta").is_dir():
        return root
    for folder in (root / "checkpoints", root):
        if folder.is_dir():
            steps = [int(p.name) for p in folder.iterdir() if _is_complete_step(p)]
            if steps:
                return folder / str(max(steps))
    raise FileNotFoundError(
        f"no checkpoint at {root}: expected a folder with 'meta' and 'params', or a workdir with "
        "'checkpoints/STEP'; train first, or convert weights with convert_torch_weights.py"
    )


def read_meta(checkpoint: epath.Path) -> dict:
    """What the checkpoint says of itself: kind, architecture, step, config, latent statistics."""
    handler = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    meta = handler.restore(checkpoint / "meta", args=ocp.args.JsonRestore())
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{checkpoint} has format version {meta.get('format_version')}; "
            f"this program reads version {FORMAT_VERSION}"
        )
    return meta


def architecture_fields(meta: dict) -> dict[str, Any]:
    """Constructor arguments of the architecture in a checkpoint's meta; JSON's lists are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in meta["architecture"].items()}


def item_names(checkpoint: epath.Path) -> set[str]:
    """Names of the items in a checkpoint directory."""
    return {p.name for p in checkpoint.iterdir() if p.is_dir()}


def read_arrays(checkpoint: epath.Path, item: str, abstract: Tree) -> Tree:
    """Reads one item into the shapes, types and shardings of `abstract`."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(checkpoint / item, abstract)


def _is_complete_step(path: epath.Path) -> bool:
    """An object store has no renaming: there a checkpoint has its name before it is complete."""
    return path.name.isdigit() and ocp.utils.is_checkpoint_finalized(path)


def _absolute(path: str) -> epath.Path:
    """Orbax refuses relative paths, some of them only in the background."""
    if "://" in str(path):  # resolve() would take it for a relative path
        return epath.Path(path)
    return epath.Path(path).expanduser().resolve()


def _save_args(arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> ocp.args.Composite:
    return ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
        **{name: ocp.args.JsonSave(value) for name, value in json.items()},
    )
