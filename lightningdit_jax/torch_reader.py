"""Reads PyTorch checkpoint files without PyTorch and without executing anything in them.

A `.pt` file is a pickle that names the tensors, beside their raw storages: in a zip archive since
PyTorch 1.6, appended to the pickle before. The unpickler here resolves tensors, containers and
plain values; every other name becomes an inert stand-in, so that nothing of a hostile file runs.
Training programs keep their arguments, paths and counters beside the tensors: those are left out.
"""

import io
import math
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from lightningdit_jax.mapped_file import MappedFile

_STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "ComplexFloatStorage": np.dtype("<c8"),
}
# Kinds that have no storage of their own: their tensors lie in bytes and name their type.
_BYTES_STORAGE = "UntypedStorage"
_BYTES_DTYPES = {
    f"torch.{dtype.name}": dtype
    for dtype in map(
        np.dtype,
        (
            *("<u2", "<u4", "<u8"),
            ml_dtypes.float8_e4m3fn,
            ml_dtypes.float8_e4m3fnuz,
            ml_dtypes.float8_e5m2,
            ml_dtypes.float8_e5m2fnuz,
            ml_dtypes.float8_e8m0fnu,
        ),
    )
}
_DTYPE_NAME = re.compile(r"(u?int|b?float|complex)\d+(_\w+)?|bool")
# No program that saves weights refers to these. That they do nothing here is not for this list to
# see to; it is to tell of a file that would harm whoever opens it elsewhere.
_HARMFUL = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|importlib|runpy|ctypes|pty)\."
    r"|(builtins|__builtin__)\.(eval|exec|compile|open|__import__|breakpoint|input)$"
)
_TENSOR_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_MAX_FOREIGN = 1000  # names of a file
# Views may repeat elements (`expand`), but a few bytes shall not ask for all memory.
_MAX_REPEATED = 2**20  # bytes
_MAX_INFLATION = 16  # of a compressed archive; weights hardly shrink
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(_LEGACY_MAGIC, protocol=2)


class _Unreadable(ValueError):
    """A reason that `read_torch` completes with the name of the file."""


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
    except _Unreadable as error:
        raise ValueError(f"{path}: {error}") from None
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"{path} ({size} bytes) is damaged or not a PyTorch file: {error!r}"
        ) from error


def check_memory(file: Any) -> None:
    """Raises ValueError for a pickle that asks for much memory by a few bytes; reads none of it.

    An unpickler's table of what is memorized grows to the largest index.
    """
    begin = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > count:
            raise _Unreadable(f"a pickle of {count} steps memorizes an object as {argument}")
    file.seek(begin)


class Foreign(type):
    """Stands for a class that is not read and for its objects: takes all, keeps nothing.

    Its name is that of the class. It is a class itself, which whatever a pickle does to classes and
    objects gives back: it may be called, and makes instances by `__new__`.
    """

    def __new__(mcs, name: str) -> "Foreign":
        return super().__new__(mcs, name, (), {"__new__": lambda cls, *_, **__: cls})

    def __init__(cls, name: str):
        super().__init__(name, (), {})

    def __call__(cls, *_: Any, **__: Any) -> "Foreign":
        return cls

    def _ignore(cls, *_: Any) -> None:
        """What a pickle does to its objects: set their state, append, extend, add, set items."""

    __setstate__ = append = extend = add = __setitem__ = _ignore


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2. Has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
    ) -> np.ndarray | Foreign:
        if isinstance(storage, Foreign):
            return storage
        if not isinstance(storage, np.ndarray) or len(size) != len(stride):
            raise _Unreadable("a tensor record is malformed")
        if any(n < 0 for n in (offset, *size, *stride)):
            raise _Unreadable(f"a tensor has offset {offset}, size {size}, stride {stride}")
        empty = 0 in size
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if not empty and last >= storage.size:
            raise _Unreadable(
                f"a tensor of size {tuple(size)}, stride {tuple(stride)} and offset {offset} "
                f"exceeds its storage of {storage.size} elements"
            )
        if empty:
            return np.zeros(size, storage.dtype)
        count = math.prod(size)
        if count > storage.size and count * storage.itemsize > _MAX_REPEATED:
            repeated = f"{tuple(size)} that repeats {storage.size} elements"
            return Foreign(f"torch tensor of size {repeated}")
        strides = [step * storage.itemsize for step in stride]
        start = offset * storage.itemsize
        view = np.ndarray(size, storage.dtype, storage.view(np.uint8), start, strides)
        view.flags.writeable = False
        return _materialize(view, metadata) if metadata else view


def _materialize(view: np.ndarray, metadata: Any) -> np.ndarray:
    """The values of a tensor that PyTorch saved lazily: negated or conjugated when it is used."""
    if not isinstance(metadata, dict) or not metadata.items() <= {("neg", True), ("conj", True)}:
        raise _Unreadable(
            f"a {view.dtype} tensor of size {view.shape} carries {metadata!r}; of what PyTorch "
            "saves beside a tensor's values the bits 'neg' and 'conj' are read. Save a .clone() of "
            "it on the CPU"
        )
    if "conj" in metadata:
        view = np.conjugate(view)
    if "neg" in metadata:
        view = np.negative(view)
    view.flags.writeable = False
    return view


class _RebuildTyped:
    """Stands for torch._utils._rebuild_tensor_v3, whose storage is bytes."""

    __slots__ = ()

    def __call__(
        self, storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
    ) -> np.ndarray | Foreign:
        if not isinstance(dtype, str) or dtype not in _BYTES_DTYPES:
            return Foreign(f"{dtype} tensor")
        if not isinstance(storage, np.ndarray):
            raise _Unreadable("a tensor record is malformed")
        typed = storage.view(_BYTES_DTYPES[dtype])
        return _RebuildTensor()(typed, offset, size, stride, metadata=metadata)


class _RebuildParameter:
    """Stands for torch._utils._rebuild_parameter, and that of parameters with attributes."""

    __slots__ = ()

    def __call__(self, data, requires_grad=True, hooks=None, attributes=None) -> Any:
        return data


class _RebuildFromType:
    """Stands for torch._tensor._rebuild_from_type_v2: tensors with attributes, and subclasses.

    What the data of a subclass mean is its own matter: it is not read.
    """

    __slots__ = ()

    def __call__(self, rebuild, kind, arguments, state) -> Any:
        plain = isinstance(kind, Foreign) and kind.__name__ in _TENSOR_CLASSES
        if plain and isinstance(rebuild, (_RebuildTensor, _RebuildTyped, _RebuildParameter)):
            return rebuild(*arguments)
        return kind if isinstance(kind, Foreign) else Foreign(f"torch tensor of type {kind}")


_RESOLVED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch.storage", _BYTES_STORAGE): _BYTES_STORAGE,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTyped(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
}


class _Unpickler(pickle.Unpickler):
    """Resolves tensors through `storage(key, dtype, numel)`; all else becomes `Foreign`."""

    def __init__(self, file: Any, storage: Callable[[str, np.dtype, int], np.ndarray] | None):
        super().__init__(file, encoding="utf-8")
        self._file, self._storage = file, storage
        self._holds_tensors = False
        self._foreign: dict[str, Foreign] = {}

    def load(self) -> Any:
        """The object."""
        check_memory(self._file)
        return super().load()

    def load_checked(self) -> Any:
        """The object; refuses one that refers to other classes and holds no tensor."""
        result = self.load()
        if self._foreign and not self._holds_tensors:
            raise _Unreadable(
                f"refused, it refers to {', '.join(self._foreign)} and holds no tensors"
            )
        return result

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RESOLVED:
            return _RESOLVED[module, name]
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        full = f"{module}.{name}"
        if module == "torch" and _DTYPE_NAME.fullmatch(name):
            return full
        if _HARMFUL.match(full):
            raise _Unreadable(
                f"refused, it refers to {full}, which acts on the machine where a file is opened "
                "and which no saved weights need"
            )
        if len(self._foreign) >= _MAX_FOREIGN:
            raise _Unreadable(f"refused, it refers to more than {_MAX_FOREIGN} classes")
        return self._foreign.setdefault(full, Foreign(full))

    def persistent_load(self, pid: Any) -> np.ndarray | Foreign:
        if isinstance(pid, tuple) and pid[:1] == ("module",) and isinstance(pid[1], Foreign):
            return pid[1]  # the class of a whole module, in the older format
        if self._storage is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise _Unreadable("refused, it refers to objects outside the file")
        _, kind, key, _, numel = pid[:5]
        self._holds_tensors = True
        if isinstance(kind, Foreign):
            return kind
        if not isinstance(kind, str) or not isinstance(numel, int) or numel < 0:
            raise _Unreadable(f"storage '{key}' has type {kind!r} and {numel!r} elements")
        if len(pid) > 5 and pid[5] is not None:
            raise _Unreadable("storages that are views of others (PyTorch before 0.4) are not read")
        dtype = np.dtype("u1") if kind == _BYTES_STORAGE else _STORAGE_DTYPES[kind]
        return self._storage(str(key), dtype, numel)


def _read_zip(path: epath.Path, file: Any, mapped: MappedFile | None) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise _Unreadable(
            f"the zip directory at the end is missing, so the file is truncated "
            f"({path.stat().length} bytes). Copy it again"
        ) from None
    with archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [n for n in entries if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Unreadable("a zip archive, but without the data.pkl of a PyTorch file")
        if any(info.compress_size > path.stat().length for info in entries.values()):
            raise _Unreadable("damaged, an entry claims to be larger than the file. Copy it again")
        packed = [i for i in entries.values() if i.compress_type != zipfile.ZIP_STORED]
        if sum(i.file_size for i in packed) > _MAX_INFLATION * path.stat().length:
            raise _Unreadable(
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
                raise _Unreadable(
                    f"'{name}' is damaged: its bytes are not those that were saved (CRC-32). Copy "
                    "the file again"
                )
            if mapped is not None:
                mapped.release()  # asking has read it all
            return data

        if (order := root + "byteorder") in entries and bytes(content(order)) != b"little":
            raise _Unreadable("saved on a big-endian machine; only little-endian files are read")
        storages: dict[tuple[str, np.dtype], np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, numel: int) -> np.ndarray:
            if (key, dtype) not in storages:
                info = entries.get(f"{root}data/{key}")
                found = info.file_size if info else 0
                if info is None or found < numel * dtype.itemsize:
                    raise _Unreadable(
                        f"storage '{key}' has {found} bytes, expected {numel * dtype.itemsize}"
                    )
                storages[key, dtype] = np.ndarray(numel, dtype, buffer=content(info.filename))
            return storages[key, dtype]

        return _Unpickler(io.BytesIO(content(pickles[0])), storage).load_checked()


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
    if _Unpickler(file, None).load_checked() != _LEGACY_MAGIC:
        raise _Unreadable("a pickle, but not one that torch.save wrote")
    _Unpickler(file, None).load()  # protocol version, 1001 in every release
    if not _Unpickler(file, None).load()["little_endian"]:
        raise _Unreadable("saved on a big-endian machine; only little-endian files are read")
    begin = file.tell()
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        if key not in storages:
            needed = numel * dtype.itemsize
            if needed + sum(array.nbytes for array in storages.values()) > size:
                raise _Unreadable(
                    f"truncated: storage '{key}' needs {needed} bytes, the file has {size}"
                )
            storages[key] = np.empty(numel, dtype)  # filled below
        return storages[key]

    _Unpickler(file, storage).load_checked()  # tells the storages, whose bytes come after it
    unread = set(storages)
    for key in _Unpickler(file, None).load():
        if key not in storages:
            raise _Unreadable(
                f"storage '{key}' has a type that is not read, quantized perhaps; save the tensors "
                "in float32"
            )
        array = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        data = file.read(array.nbytes)
        if numel != array.size or len(data) != array.nbytes:
            raise _Unreadable(
                f"truncated: storage '{key}' has {numel} elements in {len(data)} bytes, "
                f"expected {array.size} in {array.nbytes}"
            )
        array.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        array.flags.writeable = False
        unread.remove(key)
    if unread:
        raise _Unreadable(f"truncated: storages {sorted(unread)} are missing")
    file.seek(begin)
    return _Unpickler(file, storage).load_checked()
