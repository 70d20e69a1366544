"""Weights in several files with an index, as the Hugging Face hub keeps large ones.

Imports nothing of ours but how JSON is read.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json
from lightningdit_jax.errors import ConversionError


def read_shards(
    index: epath.Path, read: Callable[[epath.Path], Any]
) -> tuple[dict[str, np.ndarray], list[epath.Path]]:
    """All tensors that an index names, and the files that hold them. read: reads one of them.

    index: a JSON file, `weight_map` from tensor to file and, in `metadata`, the bytes of all.
    Raises ValueError where the index is damaged, and ConversionError listing the files that are not
    there, or the tensors that a file lacks or holds beyond the index, or where the sizes differ.
    """
    content = read_json(index)
    places = content.get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise ValueError(f"{index} is no index of shards: it has no weight_map")
    for name in places.values():
        if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
            raise ValueError(f"{index} refers to {name!r:.100}; expected files beside it")
        if "/" in name or "\\" in name:
            raise ValueError(f"{index} refers to {name!r:.100}; expected files beside it")
    names = sorted(set(places.values()))
    files = [index.parent / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ConversionError(f"{index} names files that are not there; copy them too:", missing)
    tensors: dict[str, np.ndarray] = {}
    problems = []
    for file in files:
        held = read(file)
        if not isinstance(held, Mapping):
            raise ValueError(f"{file} holds a {type(held).__name__}; expected tensors by name")
        due = {key for key, name in places.items() if name == file.name}
        problems += [f"missing: {key}, which should be in {file.name}" for key in due - held.keys()]
        problems += [f"not in the index: {key} of {file.name}" for key in held.keys() - due]
        tensors |= held
    total = field_of(index, content, "metadata", dict, {}).get("total_size")
    found = sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, np.ndarray))
    # Tensors of .bin files can share their memory, which is counted once.
    counted = total is not None and index.name.endswith(".safetensors.index.json")
    if not problems and counted and found != total:
        problems = [f"wrong size: {found} bytes of tensors, the index says {total}"]
    if problems:
        raise ConversionError(f"{index} does not fit its shards:", sorted(problems))
    return tensors, files
