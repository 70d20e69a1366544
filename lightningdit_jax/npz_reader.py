"""Arrays of .npz files: any damage is one line that names the file.

What a file claims of itself is compared with its size before memory is asked for.
"""

import contextlib
import dataclasses
import errno
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO

import numpy as np
from etils import epath

from lightningdit_jax.errors import one_line

_MAX_INFLATION = 1100  # deflate makes nothing smaller than that
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy's; LZMA's asks for 4 GB at a word
# What zipfile, zlib and the parser of NumPy's headers raise for damaged bytes.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Member:
    """An array of an archive: its data begin at byte `begin` of the unpacked entry."""

    entry: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int
    checksum: int  # CRC-32, as the archive has it


class DamagedNpzError(ValueError):
    """The file is none of .npz arrays, or was damaged since."""


@contextlib.contextmanager
def opened_npz(path: epath.PathLike) -> Iterator[zipfile.ZipFile]:
    """The archive. Raises DamagedNpzError, also for what is read of it within."""
    path = epath.Path(path)
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise DamagedNpzError(f"{path} is not an .npz file")
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except DamagedNpzError:
            raise
        except (*DAMAGE, OSError) as error:
            # EINVAL: an entry before the file's beginning. All else of the file system is not for
            # this to judge.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise DamagedNpzError(f"{path} is damaged ({one_line(error)})") from error


def member(archive: zipfile.ZipFile, name: str, size: int) -> Member:
    """What the archive says of an array. size: of the file, in bytes."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_size > size:  # which zipfile would ask memory for
        raise ValueError(f"'{name}' claims to be in {info.compress_size} bytes")
    if info.compress_type not in _METHODS:
        raise ValueError(f"'{name}' is compressed by another method than deflate")
    if info.file_size > size * _MAX_INFLATION:
        raise ValueError(f"'{name}' claims to hold {info.file_size} bytes")
    with archive.open(info) as stream:
        return read_header(stream, info.filename, info.file_size, info.CRC)


def read_header(stream: IO[bytes], name: str, size: int, checksum: int = 0) -> Member:
    """What the .npy data of `size` bytes that a stream begins with say of themselves.

    Raises one of DAMAGE for those that are damaged or claim another size.
    """
    version = np.lib.format.read_magic(stream)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    try:
        shape, fortran, dtype = header(stream)
    except MemoryError:  # so Python's parser says that brackets are nested too deep
        raise ValueError(f"'{name}' has a header that is nested too deep") from None
    begin = stream.tell()
    whole = all(type(n) is int and n >= 0 for n in shape)  # True is a number to NumPy
    if not whole or dtype.hasobject or begin + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"'{name}' claims to be {dtype} {shape} in {size} bytes")
    return Member(name, shape, fortran, dtype, begin, checksum)


def read_member(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    """An array, whose checksum is compared. size: of the file, in bytes."""
    found = member(archive, name, size)
    data = archive.read(found.entry)[found.begin :]  # to the end, where the checksum is compared
    flat = np.frombuffer(data, found.dtype)
    return flat.reshape(found.shape, order="F") if found.fortran else flat.reshape(found.shape)


def read_npz(path: epath.PathLike, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of these arrays that a file has. Raises DamagedNpzError."""
    size, there = epath.Path(path).stat().length, npz_names(path)
    with opened_npz(path) as archive:
        return {name: read_member(archive, name, size) for name in names if name in there}


def npz_names(path: epath.PathLike) -> list[str]:
    """Names of the arrays of a file. Raises DamagedNpzError."""
    with opened_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]
