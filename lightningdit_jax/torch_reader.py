"""Reads PyTorch checkpoint files without PyTorch and without executing anything in them.

A `.pt` file is a pickle that names the tensors, beside their raw storages: in a zip archive since
PyTorch 1.6, appended to the pickle before. What is in the pickle: lightningdit_jax/torch_pickle.py.
Training programs keep their arguments, paths and counters beside the tensors: those are left out.
"""

import io
import os
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.pickle_check import UnreadableError
from lightningdit_jax.storage_errors import check_absent
from lightningdit_jax.torch_pickle import TorchUnpickler

_MAX_INFLATION = 16  # of a compressed archive; weights hardly shrink
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA's asks for 4 GB at a word
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(_LEGACY_MAGIC, protocol=2)


def read_torch(path: epath.PathLike, mapped: MappedFile | None = None) -> Any:
    """The object saved in a PyTorch file, tensors as read-only numpy arrays (bfloat16: ml_dtypes).

    Containers come back as dict, OrderedDict, list and tuple, parameters as plain arrays,
    `torch.dtype` values as strings such as "torch.float32". Tensors that share a storage share
    memory, except those that PyTorch saved to be negated or conjugated: that is done here. Local
    zip files are memory-mapped: a tensor is read from the disk when it is used. mapped: the file,
    where the caller wants to give its pages back in between.

    Objects of other classes come back as `Foreign`, tensors of a type that numpy and ml_dtypes do
    not have too; nothing of them is imported or run.

    Raises FileNotFoundError if there is no such file, and ValueError naming the file if it is
    empty, truncated, not a PyTorch file, holds other classes (which are named) and no tensor, or
    refers to what runs programs.
    """
    path = epath.Path(path)
    if not path.is_file():
        check_absent(path)
        raise FileNotFoundError(f"{path}: no such file")
    size = path.stat().length
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes); expected a PyTorch file. Copy it again")
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if not is_zip:
                return _read_legacy(file, size)
            if mapped is None and "://" not in os.fspath(path):
                mapped = MappedFile(path)
            return _read_zip(path, file, mapped)
    except UnreadableError as error:
        raise ValueError(f"{path}: {error}") from None
    except MemoryError:
        raise
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"{path} ({size} bytes) is damaged or not a PyTorch file: {error!r:.200}"
        ) from error


def _read_zip(path: epath.Path, file: Any, mapped: MappedFile | None) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise UnreadableError(
            f"the zip directory at the end is missing, so the file is truncated "
            f"({path.stat().length} bytes). Copy it again"
        ) from None
    with archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [n for n in entries if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableError("a zip archive, but without the data.pkl of a PyTorch file")
        if any(info.compress_size > path.stat().length for info in entries.values()):
            raise UnreadableError(
                "damaged, an entry claims to be larger than the file. Copy it again"
            )
        if any(info.compress_type not in _METHODS for info in entries.values()):
            raise UnreadableError("an entry is compressed by another method than deflate")
        packed = [i for i in entries.values() if i.compress_type != zipfile.ZIP_STORED]
        if sum(i.file_size for i in packed) > _MAX_INFLATION * path.stat().length:
            raise UnreadableError(
                f"its entries claim more than {_MAX_INFLATION} times the size of the file; save "
                "it again, uncompressed"
            )
        root = pickles[0].removesuffix("data.pkl")
        raw = np.frombuffer(path.read_bytes(), np.uint8) if mapped is None else mapped.data
        # PyTorch can be told to compute no checksums (set_crc32_options): all are 0 then.
        checked = any(info.CRC for info in entries.values())

        def content(name: str) -> Any:
            data = _entry_bytes(archive, entries[name], raw)
            if checked and zlib.crc32(data) != entries[name].CRC:
                raise UnreadableError(
                    f"'{name}' is damaged: its bytes are not those that were saved (CRC-32). Copy "
                    "the file again"
                )
            if mapped is not None:
                mapped.release()  # asking has read it all
            return data

        if (order := root + "byteorder") in entries and bytes(content(order)) != b"little":
            raise UnreadableError(
                "saved on a big-endian machine; only little-endian files are read"
            )
        storages: dict[tuple[str, np.dtype], np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, numel: int) -> np.ndarray:
            if (key, dtype) not in storages:
                info = entries.get(f"{root}data/{key}")
                found = info.file_size if info else 0
                if info is None or found < numel * dtype.itemsize:
                    raise UnreadableError(
                        f"storage '{key}' has {found} bytes, expected {numel * dtype.itemsize}"
                    )
                storages[key, dtype] = np.ndarray(numel, dtype, buffer=content(info.filename))
            return storages[key, dtype]

        pickled = bytes(content(pickles[0]))
        return TorchUnpickler(io.BytesIO(pickled), len(pickled), storage).load_checked()


def _entry_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: np.ndarray) -> Any:
    """Contents of a zip entry: a view of `raw` if stored as it is, as PyTorch does."""
    if info.compress_type != zipfile.ZIP_STORED:
        return archive.read(info)
    header = raw[info.header_offset : info.header_offset + 30].tobytes()
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    begin = info.header_offset + 30 + name_length + extra_length
    return raw[begin : begin + info.file_size]


def _read_legacy(file: Any, size: int) -> Any:
    """The format before PyTorch 1.6: pickles, then per storage its length and its bytes."""
    if TorchUnpickler(file, size, None).load_checked() != _LEGACY_MAGIC:
        raise UnreadableError("a pickle, but not one that torch.save wrote")
    TorchUnpickler(file, size, None).load()  # protocol version, 1001 in every release
    if not TorchUnpickler(file, size, None).load()["little_endian"]:
        raise UnreadableError("saved on a big-endian machine; only little-endian files are read")
    begin = file.tell()
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        if key not in storages:
            needed = numel * dtype.itemsize
            if needed + sum(array.nbytes for array in storages.values()) > size:
                raise UnreadableError(
                    f"truncated: storage '{key}' needs {needed} bytes, the file has {size}"
                )
            storages[key] = np.empty(numel, dtype)  # filled below
        return storages[key]

    TorchUnpickler(
        file, size, storage
    ).load_checked()  # tells the storages, whose bytes come after it
    unread = set(storages)
    for key in TorchUnpickler(file, size, None).load():
        if not isinstance(key, str):
            raise UnreadableError(f"a storage is called by a {type(key).__name__}; expected a text")
        if key not in storages:
            raise UnreadableError(
                f"storage '{key}' has a type that is not read, quantized perhaps; save the tensors "
                "in float32"
            )
        array = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        data = file.read(array.nbytes)
        if numel != array.size or len(data) != array.nbytes:
            raise UnreadableError(
                f"truncated: storage '{key}' has {numel} elements in {len(data)} bytes, "
                f"expected {array.size} in {array.nbytes}"
            )
        array.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        array.flags.writeable = False
        unread.remove(key)
    if unread:
        raise UnreadableError(f"truncated: storages {sorted(unread)} are missing")
    file.seek(begin)
    return TorchUnpickler(file, size, storage).load_checked()
