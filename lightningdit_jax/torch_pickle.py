"""The pickles inside PyTorch files, of which nothing is imported or run.

The unpickler here resolves tensors, containers and plain values; every other name becomes an inert
stand-in, so that nothing of a hostile file runs.
"""

import math
import pickle
import re
import reprlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from lightningdit_jax.errors import listed
from lightningdit_jax.pickle_check import UnreadableError, check_pickle

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
# What a file says, in a line of ours.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 2, 60, 100, 60
_shown = _SHOWN.repr
_TENSOR_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_MAX_FOREIGN = 1000  # names of a file
_LONGEST_NAME = 200
# Views may repeat elements (`expand`), but a few bytes shall not ask for all memory.
_MAX_REPEATED = 2**20  # bytes


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
            raise UnreadableError("a tensor record is malformed")
        if any(n < 0 for n in (offset, *size, *stride)):
            raise UnreadableError(
                f"a tensor has offset {_shown(offset)}, size {_shown(size)}, "
                f"stride {_shown(stride)}"
            )
        empty = 0 in size
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if not empty and last >= storage.size:
            raise UnreadableError(
                f"a tensor of size {_shown(tuple(size))}, stride {_shown(tuple(stride))} and "
                f"offset {_shown(offset)} exceeds its storage of {storage.size} elements"
            )
        if empty:
            return np.zeros(size, storage.dtype)
        count = math.prod(size)
        if count > storage.size and count * storage.itemsize > _MAX_REPEATED:
            repeated = f"{_shown(tuple(size))} that repeats {storage.size} elements"
            return Foreign(f"torch tensor of size {repeated}")
        strides = [step * storage.itemsize for step in stride]
        start = offset * storage.itemsize
        view = np.ndarray(size, storage.dtype, storage.view(np.uint8), start, strides)
        view.flags.writeable = False
        return _materialize(view, metadata) if metadata else view


def _materialize(view: np.ndarray, metadata: Any) -> np.ndarray:
    """The values of a tensor that PyTorch saved lazily: negated or conjugated when it is used."""
    known = isinstance(metadata, dict) and metadata.keys() <= {"neg", "conj"}
    if not known or any(value is not True for value in metadata.values()):
        raise UnreadableError(
            f"a {view.dtype} tensor of size {view.shape} carries {_shown(metadata)}; of what "
            "PyTorch saves beside a tensor's values the bits 'neg' and 'conj' are read. Save a "
            ".clone() of it on the CPU"
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
            return Foreign(f"{dtype if isinstance(dtype, str) else _shown(dtype)} tensor")
        if not isinstance(storage, np.ndarray):
            raise UnreadableError("a tensor record is malformed")
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
        return (
            kind if isinstance(kind, Foreign) else Foreign(f"torch tensor of type {_shown(kind)}")
        )


class _Ordered(OrderedDict):
    """An OrderedDict, to which a pickle gives items and no attributes, such as another `items`."""

    def __setstate__(self, state: Any) -> None:
        """Takes none."""


_RESOLVED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Ordered,
    ("torch", "Size"): tuple,
    ("torch.storage", _BYTES_STORAGE): _BYTES_STORAGE,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTyped(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
}


class TorchUnpickler(pickle.Unpickler):
    """Resolves tensors through `storage(key, dtype, numel)`; all else becomes `Foreign`.

    file: of `size` bytes in all.
    """

    def __init__(
        self, file: Any, size: int, storage: Callable[[str, np.dtype, int], np.ndarray] | None
    ):
        super().__init__(file, encoding="utf-8")
        self._file, self._size, self._storage = file, size, storage
        self._holds_tensors = False
        self._foreign: dict[str, Foreign] = {}

    def load(self) -> Any:
        """The object."""
        check_pickle(self._file, self._size - self._file.tell())
        return super().load()

    def load_checked(self) -> Any:
        """The object; refuses one that refers to other classes and holds no tensor."""
        result = self.load()
        if self._foreign and not self._holds_tensors:
            raise UnreadableError(
                f"refused, it refers to {listed(list(self._foreign), 10)} and holds no tensors"
            )
        return result

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RESOLVED:
            return _RESOLVED[module, name]
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        full = f"{module}.{name}"
        if not full.isprintable() or len(full) > _LONGEST_NAME:
            raise UnreadableError(
                f"refused, it refers to {full!r:.{_LONGEST_NAME}}, no class's name"
            )
        if module == "torch" and _DTYPE_NAME.fullmatch(name):
            return full
        if _HARMFUL.match(full):
            raise UnreadableError(
                f"refused, it refers to {full}, which acts on the machine where a file is opened "
                "and which no saved weights need"
            )
        if len(self._foreign) >= _MAX_FOREIGN:
            raise UnreadableError(f"refused, it refers to more than {_MAX_FOREIGN} classes")
        return self._foreign.setdefault(full, Foreign(full))

    def persistent_load(self, pid: Any) -> np.ndarray | Foreign:
        if isinstance(pid, tuple) and pid[:1] == ("module",) and isinstance(pid[1], Foreign):
            return pid[1]  # the class of a whole module, in the older format
        if self._storage is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise UnreadableError("refused, it refers to objects outside the file")
        _, kind, key, _, numel = pid[:5]
        self._holds_tensors = True
        if isinstance(kind, Foreign):
            return kind
        known = isinstance(kind, str) and (kind == _BYTES_STORAGE or kind in _STORAGE_DTYPES)
        if not known or not isinstance(numel, int) or numel < 0:
            said = f"{_shown(kind)} and {_shown(numel)} elements"
            raise UnreadableError(f"storage {_shown(key)} has type {said}")
        if not isinstance(key, str | int) or not str(key).isprintable():
            raise UnreadableError(f"a storage is called {_shown(key)}; expected a number")
        if len(pid) > 5 and pid[5] is not None:
            raise UnreadableError(
                "storages that are views of others (PyTorch before 0.4) are not read"
            )
        dtype = np.dtype("u1") if kind == _BYTES_STORAGE else _STORAGE_DTYPES[kind]
        return self._storage(str(key), dtype, numel)
