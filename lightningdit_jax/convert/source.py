"""A file or folder of PyTorch weights -> one state dict, without the names of wrappers."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.convert.folders import INDEX_SUFFIX, find_weights
from lightningdit_jax.convert.kinds import common_prefix
from lightningdit_jax.convert.numpy_pickle import is_numpy_pickle, read_numpy_pickle
from lightningdit_jax.convert.wrappers import Weights, choose_weights, plain_name, wrappers_in
from lightningdit_jax.errors import one_line
from lightningdit_jax.hub import is_address
from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.safetensors_reader import read_safetensors
from lightningdit_jax.torch_pickle import Foreign
from lightningdit_jax.torch_reader import LEGACY_START, read_torch
from lightningdit_jax.weight_shards import read_shards

_HEAD = 2**12


@dataclasses.dataclass(frozen=True)
class Source:
    """A state dict and where it came from.

    weights: what was taken of the file. notes: what is to be said of that. path: the file, or the
    index of its shards. files: all that were read.
    release() gives back the memory of what was read of the files so far; tensors stay usable.
    """

    tensors: dict[str, np.ndarray]
    weights: Weights
    notes: tuple[str, ...]
    path: epath.Path
    files: tuple[epath.Path, ...]
    release: Callable[[], None]

    @property
    def wrapper(self) -> str:
        """The entry of the file it was taken from, "" where the file is the state dict itself."""
        return self.weights.entry

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def read_source(path: epath.PathLike, weights: str | None = None) -> Source:
    """Reads a file of weights without executing anything in it.

    path: a `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` file, the index of shards, a folder
    that holds one of these, as `find_weights` has it, or the address of one in the hub. weights:
    which of a training checkpoint's weights to take, as `choose_weights` has it.
    Raises FileNotFoundError, and ValueError naming the file if it is damaged, holds no tensors or
    what is neither tensor nor foreign, names a tensor twice, or does not tell which weights are
    meant.
    """
    if "://" in os.fspath(path) and not is_address(path):
        raise ValueError(f"{path} is remote; copy it to a local disk first")
    path = find_weights(path)
    maps: list[MappedFile] = []

    def read(file: epath.Path) -> Any:
        content, mapped = _read_file(file)
        maps.append(mapped)
        return content

    if path.name.endswith(INDEX_SUFFIX):
        content, files = read_shards(path, read)
        files = [path, *files]
    else:
        content, files = read(path), [path]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {_kind_of(content)}; expected a state dict or a training checkpoint"
        )
    content = {str(key): value for key, value in content.items()}
    try:
        taken = choose_weights(content, weights)
        tensors, notes = _tensors(taken)
        if prefix := common_prefix(tensors, taken.entry):
            tensors = _plainly_named((key.removeprefix(prefix), tensors[key]) for key in tensors)
            notes.append(f"prefix '{prefix}' taken off")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    beside = [f"'{k}' ({v.__name__})" for k, v in content.items() if isinstance(v, Foreign)]
    if beside and taken.entry:
        notes.append(f"left out, not read: {', '.join(beside)}")

    def release() -> None:
        for mapped in maps:
            mapped.release()

    return Source(tensors, taken, tuple(notes), path, tuple(files), release)


def _tensors(taken: Weights) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of a state dict by their plain names, and what is to be said of the rest."""
    tensors: list[tuple[str, np.ndarray]] = []
    foreign = []
    for key, value in taken.state.items():
        if isinstance(value, Foreign) and not value.__name__.startswith("torch"):
            foreign.append(f"'{key}' ({value.__name__})")
            continue
        if not isinstance(value, np.ndarray):
            raise ValueError(
                f"'{key}' is a {_kind_of(value)}; expected nothing but tensors of numbers in "
                f"{taken}: convert or delete it"
            )
        tensors.append((key, value))
    if not tensors:
        raise ValueError("it holds no tensors")
    notes = [taken.note] if taken.note else []
    if wrappers := wrappers_in(taken.state):
        notes.append(f"taken out of the names: {', '.join(wrappers)}")
    if foreign:
        notes.append(f"left out, not read: {', '.join(foreign)}")
    return _plainly_named(tensors), notes


def _plainly_named(tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for key, value in tensors:
        name = plain_name(key)
        if name in named:
            raise ValueError(f"'{name}' is there twice, with and without a prefix")
        named[name] = value
    return named


def _kind_of(value: Any) -> str:
    return value.__name__ if isinstance(value, Foreign) else type(value).__name__


def _read_file(path: epath.Path) -> tuple[Any, MappedFile]:
    """What one file holds, and its mapping into memory."""
    if path.stat().length == 0:
        raise ValueError(f"{path} is empty (0 bytes); expected weights. Copy it again")
    mapped = MappedFile(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, mapped), mapped
    head = mapped.data[:_HEAD].tobytes()
    if is_numpy_pickle(head) and not head.startswith(LEGACY_START):
        return _read_numpy_pickle(path, mapped), mapped
    return read_torch(path, mapped), mapped


def _read_numpy_pickle(path: epath.Path, mapped: MappedFile) -> dict[str, np.ndarray]:
    try:
        return read_numpy_pickle(mapped.data.tobytes())
    except MemoryError:
        raise
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
