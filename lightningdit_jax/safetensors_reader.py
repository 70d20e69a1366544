"""Reads safetensors files without copying them. Imports nothing of ours but what maps a file."""

import json

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from lightningdit_jax.errors import one_line
from lightningdit_jax.mapped_file import MappedFile

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}


def read_safetensors(path: epath.Path, mapped: MappedFile) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, by name: views of the mapped file.

    Raises ValueError naming the file where it is damaged or holds a type that is not read.
    """
    try:  # the library checks it, but its own reading copies all of it
        with safetensors.safe_open(path, "np"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}. Copy it again") from error
    length = int.from_bytes(mapped.data[:8].tobytes(), "little")
    header = json.loads(mapped.data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(
                f"{path}: '{key}' has type {entry['dtype']}, which is not read; convert it to F32"
            )
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        data = mapped.data[begin:end].view(_DTYPES[entry["dtype"]])
        tensors[key] = data.reshape(entry["shape"])
    return tensors
