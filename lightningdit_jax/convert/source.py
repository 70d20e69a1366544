"""A file of PyTorch weights -> one state dict, without the prefixes of wrapped modules."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from lightningdit_jax.convert.numpy_pickle import is_numpy_pickle, read_numpy_pickle
from lightningdit_jax.convert.wrappers import Weights, choose_weights, strip_prefixes
from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.torch_reader import read_torch

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CHUNK = 2**24
_HEAD = 2**12


@dataclasses.dataclass(frozen=True)
class Source:
    """A state dict and where it came from.

    weights: what was taken of the file, and what is to be said of that.
    release() gives back the memory of what was read of the file so far; tensors stay usable.
    """

    tensors: dict[str, np.ndarray]
    weights: Weights
    path: epath.Path
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
    """Reads a `.pt`, `.pth`, `.ckpt` or `.safetensors` file without executing anything in it.

    weights: which of a training checkpoint's weights to take, as `choose_weights` has it.
    Raises FileNotFoundError, and ValueError naming the file if it is damaged, refers to foreign
    classes, holds no tensors, names a tensor twice, or does not tell which weights are meant.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().length == 0:
        raise ValueError(f"{path} is empty (0 bytes); expected weights. Copy it again")
    if "://" in os.fspath(path):
        raise ValueError(f"{path} is remote; copy it to a local disk first")
    mapped = MappedFile(path)
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path, mapped)
    elif is_numpy_pickle(mapped.data[:_HEAD].tobytes()):
        content = _read_numpy_pickle(path, mapped)
    else:
        content = read_torch(path, mapped)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a state dict or a training "
            "checkpoint"
        )
    try:
        taken = choose_weights({str(key): value for key, value in content.items()}, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = {}
    for key, value in taken.state.items():
        if not isinstance(value, np.ndarray):
            raise ValueError(
                f"{path}: '{key}' is a {type(value).__name__}; expected nothing but tensors in "
                f"{taken}"
            )
        name = strip_prefixes(key)
        if name in tensors:
            raise ValueError(f"{path}: '{name}' is there twice, with and without a prefix")
        tensors[name] = value
    if not tensors:
        raise ValueError(f"{path} holds no tensors")
    return Source(tensors, taken, path, mapped.release)


def _read_safetensors(path: epath.Path, mapped: MappedFile) -> dict[str, np.ndarray]:
    """Views of the mapped file; the library checks it, but its own reading copies all of it."""
    try:
        with safetensors.safe_open(path, "np"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}. Copy it again") from error
    length = int.from_bytes(mapped.data[:8].tobytes(), "little")
    header = json.loads(mapped.data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: '{key}' has type {entry['dtype']}, which is not read")
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        data = mapped.data[begin:end].view(_DTYPES[entry["dtype"]])
        tensors[key] = data.reshape(entry["shape"])
    return tensors


def _read_numpy_pickle(path: epath.Path, mapped: MappedFile) -> dict[str, np.ndarray]:
    try:
        return read_numpy_pickle(mapped.data.tobytes())
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error


def file_sha256(path: epath.Path, step: Callable[[int], None]) -> str:
    """SHA-256 of a file, in hexadecimal. step: is told the bytes of each piece that is read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            step(len(chunk))
    return digest.hexdigest()
