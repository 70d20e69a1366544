"""The folder that a repository of the hub holds of a model: weights without a pickle, and JSON.

model.safetensors has the arrays of the item `params` by their names with "." for "/", those of
another item after its name ("buffers.pos_embed"); above 5 GB it is several files with an index, as
the hub's own tools write them. config.json has what a checkpoint's `meta` says and the digests of
both (checkpoint_digests): a folder without it is none. Read where a checkpoint is, from a local
disk. Imports nothing of ours but how files are read, and what is fetched of the hub.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json, write_json
from lightningdit_jax.errors import listed
from lightningdit_jax.hub import open_repository
from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.safetensors_reader import read_safetensors
from lightningdit_jax.tree_paths import map_named
from lightningdit_jax.weight_shards import read_shards

LIBRARY = "lightningdit_jax"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
WEIGHTS = "params"  # the item whose arrays have no prefix

_SHARD_BYTES = 5 * 10**9
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")

Tree = Any


def is_hub_folder(folder: epath.Path) -> bool:
    """Whether a local folder is one of these, damaged or not."""
    path = folder / CONFIG_FILE
    if "://" in os.fspath(folder) or not path.is_file():
        return False
    try:
        return read_json(path).get("library_name") == LIBRARY
    except ValueError:
        return any((folder / name).exists() for name in (WEIGHTS_FILE, INDEX_FILE))


def fetch_folder(address: str) -> epath.Path:
    """The local folder of what an address of the hub holds, all that is read of it.

    Raises ValueError where it holds no model of ours, saying what is to be done with the weights
    that it has, and else as open_repository and Repository.fetch.
    """
    repository = open_repository(address)
    weights = [name for name in repository.names if is_weights(name)]
    if CONFIG_FILE in repository.names and weights:
        folder = repository.fetch([CONFIG_FILE])
        if is_hub_folder(folder):
            return repository.fetch([CONFIG_FILE, *weights])
    there = [name for name in repository.names if name.endswith((".safetensors", *_PICKLES))]
    if not there:
        raise ValueError(
            f"{address} holds no model, but {listed(repository.names)}; expected {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}, which ldj.push_to_hub writes"
        )
    file = address if there == [""] else f"{address.rstrip('/')}/{there[0]}"
    raise ValueError(
        f"{address} holds weights of another program ({listed(there)}); convert them first: "
        f"python convert_torch_weights.py --src {file} --dst FOLDER"
    )


def is_weights(name: str) -> bool:
    """Whether a file of such a folder holds weights, or is the index of those that do."""
    return name == INDEX_FILE or _WEIGHTS.fullmatch(name) is not None


def read_config(folder: epath.Path) -> dict[str, Any]:
    """What config.json holds, `meta` and `digests` at least. Raises ValueError where damaged."""
    path = folder / CONFIG_FILE
    content = read_json(path)
    for name in ("meta", "digests"):
        field_of(path, content, name, dict, None)
    return content


def missing_weights(folder: epath.Path) -> list[str]:
    """Names of files of weights that are not there. Raises ValueError for a damaged index."""
    if not (folder / INDEX_FILE).exists():
        return [] if (folder / WEIGHTS_FILE).exists() else [WEIGHTS_FILE]
    places = field_of(folder / INDEX_FILE, read_json(folder / INDEX_FILE), "weight_map", dict, {})
    return sorted({str(n) for n in places.values() if not (folder / str(n)).exists()})


def tensor_name(item: str, name: str) -> str:
    """What an array of an item is called in the files; name: keys joined by "/"."""
    return ("" if item == WEIGHTS else f"{item}.") + name.replace("/", ".")


def read_item(folder: epath.Path, item: str, abstract: Tree) -> Tree:
    """Reads an item into the shapes, types and shardings of `abstract`; each device its part.

    Raises ValueError and OSError where the files are damaged or hold something else.
    """
    tensors, release = _read_tensors(folder)

    def placed(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        called = tensor_name(item, name)
        if called not in tensors:
            raise ValueError(f"'{called}' is missing")
        found = tensors[called]
        if (found.dtype, found.shape) != (leaf.dtype, tuple(leaf.shape)):
            raise ValueError(
                f"'{called}' is {found.dtype} {found.shape}; expected {leaf.dtype} {leaf.shape}"
            )
        array = jax.make_array_from_callback(
            # Copied: on a CPU the array would go on living in the file.
            leaf.shape,
            leaf.sharding,
            lambda index: np.array(found[index], order="C"),
        )
        release()
        return array

    return map_named(placed, abstract)


def write_weights(
    folder: epath.Path, items: Mapping[str, Mapping[str, np.ndarray]], limit: int = _SHARD_BYTES
) -> int:
    """Writes arrays, by item and name, into a new folder; returns the number of tensors.

    limit: bytes of a file, which only a single array may exceed.
    """
    tensors = {
        tensor_name(item, name): np.asarray(array, order="C")
        for item, arrays in items.items()
        for name, array in arrays.items()
    }
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in tensors.items():
        if parts[-1] and size + array.nbytes > limit:
            parts.append({})
            size = 0
        parts[-1][name] = array
        size += array.nbytes
    if len(parts) == 1:
        safetensors.numpy.save_file(tensors, folder / WEIGHTS_FILE)
        return len(tensors)
    stem = WEIGHTS_FILE.removesuffix(".safetensors")
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"
        safetensors.numpy.save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    total = sum(array.nbytes for array in tensors.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})
    return len(tensors)


def write_config(folder: epath.Path, meta: Mapping[str, Any], digests: Mapping[str, Any]) -> None:
    """Writes config.json, the last of all: with it the folder is whole."""
    content = {"library_name": LIBRARY, "meta": meta, "digests": digests}
    write_json(folder / CONFIG_FILE, content)


def _read_tensors(folder: epath.Path) -> tuple[dict[str, np.ndarray], Callable[[], None]]:
    """Views of the files by name, and what gives back the memory of what was read of them."""
    maps: list[MappedFile] = []

    def read(path: epath.Path) -> dict[str, np.ndarray]:
        maps.append(MappedFile(path))
        return read_safetensors(path, maps[-1])

    def release() -> None:
        for mapped in maps:
            mapped.release()

    if (folder / INDEX_FILE).exists():
        return read_shards(folder / INDEX_FILE, read)[0], release
    return read(folder / WEIGHTS_FILE), release
