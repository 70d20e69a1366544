"""What Orbax is told to write of a checkpoint: arrays, JSON, and digests of both.

Imports nothing of ours but what digests are.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from lightningdit_jax import checkpoint_digests
from lightningdit_jax.checkpoint_digests import DigestsHandler, DigestsSave

_CHUNK_BYTES = 2**25

Tree = Any


def _asked_once_a_folder(build: Callable[..., dict]) -> Callable[..., dict]:
    """Orbax's function from a folder and an array's name to where the array goes, asking once."""
    known: dict[str, dict] = {}

    @functools.wraps(build)
    def built(directory: str, name: str | None = None, **options: Any) -> dict:
        key = repr((directory, sorted(options.items())))
        if key not in known:
            known.clear()  # that of another checkpoint
            known[key] = build(directory, **options)
        return copy.deepcopy(known[key]) | ({} if name is None else {"path": name})

    return built


# TensorStore (0.1.86) never frees what it makes of JSON. Orbax asks before and after writing each
# item how many bytes TensorStore has written, for a line of its log, and for each array what the
# folder of the checkpoint is called: some 300 bytes an array of each checkpoint, for good.
if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
    tensorstore_utils.get_tensorstore_raw_bytes = lambda *_: 0
if hasattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec"):
    tensorstore_utils._build_ocdbt_kvstore_tspec = _asked_once_a_folder(
        tensorstore_utils._build_ocdbt_kvstore_tspec
    )


def device_handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    """Orbax's own, but that one process writes what its devices hold in copies from one of them.

    Cutting it up among them would compile a program for each shape on each device, which takes
    seconds at the first save and is of use among processes alone.
    """
    arrays = ocp.type_handlers.create_type_handler_registry(
        (
            jax.Array,
            ocp.type_handlers.ArrayHandler(use_replica_parallel=jax.process_count() > 1),
        )
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    writer = ocp.PyTreeCheckpointHandler(type_handler_registry=arrays)
    registry.add(None, ocp.args.PyTreeSave, writer)
    registry.add(checkpoint_digests.ITEM, DigestsSave, DigestsHandler())
    return registry


def of_devices(arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> ocp.args.Composite:
    """Items of arrays on devices, and of JSON. Digests are begun: the arrays may be donated."""
    json = naming_items(arrays, json)
    return ocp.args.Composite(
        **{name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()},
        **{name: ocp.args.JsonSave(value) for name, value in json.items()},
        **{checkpoint_digests.ITEM: DigestsSave(arrays, json)},
    )


def of_host(
    arrays: Mapping[str, Tree], json: Mapping[str, dict]
) -> tuple[dict[str, Any], ocp.args.Composite]:
    """Handlers by item, and items, of arrays on the host, which are not copied, and of JSON."""
    json = naming_items(arrays, json)
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    chunks = ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)
    handlers: dict[str, Any] = {checkpoint_digests.ITEM: DigestsHandler()}
    items: dict[str, Any] = {checkpoint_digests.ITEM: DigestsSave(arrays, json)}
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
    return handlers, ocp.args.Composite(**items)


def naming_items(arrays: Mapping[str, Tree], json: Mapping[str, dict]) -> dict[str, dict]:
    """The JSON items, with the names of all items in `meta`."""
    if "meta" not in json:
        return dict(json)
    named = {"items": sorted({*arrays, *json}), checkpoint_digests.ITEM: checkpoint_digests.VERSION}
    return {**json, "meta": {**json["meta"], **named}}
