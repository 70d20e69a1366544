"""Pickles as opcodes: of values, of hostile things, and changed ones."""

import pickletools
import random
import struct
from collections import OrderedDict
from typing import Any

import numpy as np

from tests.fuzz.harness import SENTINEL
from tests.fuzz.mutations import NUMBERS, TEXTS

STORAGES = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<i8": "LongStorage",
    "|u1": "ByteStorage",
}
_ACTS = (
    ("os", "system", f"touch {SENTINEL}"),
    ("posix", "system", f"touch {SENTINEL}"),
    ("builtins", "eval", f"open('{SENTINEL}', 'w')"),
    ("builtins", "exec", f"open('{SENTINEL}', 'w')"),
    ("subprocess", "getoutput", f"touch {SENTINEL}"),
    ("runpy", "run_path", "/x.py"),
    ("numpy", "load", "x.npy"),
    ("numpy.testing._private.utils", "runstring", f"open('{SENTINEL}', 'w')"),
    ("torch", "load", "x.pt"),
    ("torch.hub", "load", "x"),
    ("builtins", "getattr", "x"),
    ("builtins", "__import__", "antigravity"),
    ("importlib", "import_module", "antigravity"),
    ("pathlib", "Path", "x"),
    ("io", "open", SENTINEL),
    ("_io", "FileIO", SENTINEL),
    ("operator", "attrgetter", "__class__"),
    ("a\nb", "c", "x"),
    ("x\x00", "y", "x"),
    ("", "", ""),
    ("x" * 3000, "y", "x"),
)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (
        b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data))
    ) + data


class Writer:
    """Opcodes of values as torch.save writes them; `storages` are the bytes of the arrays."""

    def __init__(self, view: bytes = b"") -> None:
        self._view = view  # of a storage, which the older format says: none
        self.storages: list[bytes] = []

    def pickle(self, value: Any) -> bytes:
        return b"\x80\x02" + self.value(value) + b"."

    def value(self, value: Any) -> bytes:
        match value:
            case np.ndarray():
                return self.tensor(value)
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return number(value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return text(value)
            case bytes():
                return b"B" + struct.pack("<I", len(value)) + value
            case OrderedDict():
                return b"ccollections\nOrderedDict\n)R" + self._items(value)
            case dict():
                return b"}" + self._items(value)
            case list():
                return b"](" + b"".join(map(self.value, value)) + b"e"
            case tuple():
                return b"(" + b"".join(map(self.value, value)) + b"t"
        raise TypeError(type(value))

    def _items(self, value: dict) -> bytes:
        items = (self.value(k) + self.value(v) for k, v in value.items())
        return b"(" + b"".join(items) + b"u" if value else b""

    def tensor(self, array: np.ndarray, **changes: Any) -> bytes:
        """changes: of the fields of the record, opcodes or values."""
        array = np.array(array, order="C")
        self.storages.append(array.tobytes())
        strides = tuple(s // array.itemsize for s in array.strides)
        fields = {
            "rebuild": b"ctorch._utils\n_rebuild_tensor_v2\n",
            "kind": b"ctorch\n%s\n" % STORAGES[array.dtype.str].encode(),
            "key": str(len(self.storages) - 1),
            "place": "cpu",
            "numel": array.size,
            "offset": 0,
            "size": array.shape,
            "strides": strides,
            "grad": False,
            "hooks": b"ccollections\nOrderedDict\n)R",
            "more": b"",
            **changes,
        }
        f = {k: v if isinstance(v, bytes) else self.value(v) for k, v in fields.items()}
        storage = (
            b"("
            + text("storage")
            + f["kind"]
            + f["key"]
            + f["place"]
            + f["numel"]
            + self._view
            + b"tQ"
        )
        rest = f["offset"] + f["size"] + f["strides"] + f["grad"] + f["hooks"] + f["more"]
        return f["rebuild"] + b"(" + storage + rest + b"tR"


def hostile(rng: random.Random, depth: int = 3) -> bytes:
    """Opcodes that leave one value, of a kind that no weights need."""
    if depth == 0:
        return rng.choice((b"N", b")", b"]", b"}", b"\x8f", text(rng.choice(TEXTS)), number(7)))

    def inner() -> bytes:
        return hostile(rng, depth - 1)

    module, name, argument = rng.choice(_ACTS)
    glob = rng.choice(
        (
            f"c{module}\n{name}\n".encode("utf-8", "replace"),
            text(module) + text(name) + b"\x93",
        )
    )
    ours = rng.choice(
        (
            b"ccollections\nOrderedDict\n",
            b"ctorch\nSize\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch\nfloat32\n",
            b"ctorch.storage\nUntypedStorage\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_tensor_v3\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ctorch._tensor\n_rebuild_from_type_v2\n",
            b"cargparse\nNamespace\n",
            b"cnumpy._core.multiarray\n_reconstruct\n",
            b"cnumpy\ndtype\n",
            b"cnumpy\nndarray\n",
        )
    )
    huge = rng.choice((20, 60, 200, 5000))
    some = rng.choice(NUMBERS)
    match rng.randrange(20):
        case 0:
            return glob + text(argument) + b"\x85R"
        case 1:
            return b"(i" + f"{module}\n{name}\n".encode("utf-8", "replace").replace(
                b"\n\n", b"\nx\n"
            )
        case 2:
            return b"(" + glob + text(argument) + b"o"
        case 3:
            return glob + text(argument) + b"\x85\x81"
        case 4:
            return glob + text(argument) + b"\x85}\x92"
        case 5:
            return ours + inner() + rng.choice((b"\x85R", b"\x86R", b"b", b"\x81"))
        case 6:
            return ours + b"(" + b"".join(inner() for _ in range(rng.randrange(9))) + b"tR"
        case 7:
            return inner() + b"2\x86" * rng.choice((3, 30, 60, 300))  # shared: 2**60 leaves
        case 8:
            return b")" + b"\x85" * huge
        case 9:
            return b"}" + inner() + inner() + b"s"
        case 10:
            return b"](" + inner() + inner() + b"e"
        case 11:
            return inner() + inner() + b"b"
        case 12:
            return number(rng.choice((10**400, -1, some, 2**30000)))
        case 13:
            memo = some % 2**32
            put = rng.choice((b"r" + struct.pack("<I", memo), b"p%d\n" % some, b"\x94", b"q\x07"))
            return inner() + put
        case 14:
            memo = some % 2**32
            return rng.choice((b"j" + struct.pack("<I", memo), b"g%d\n" % some, b"h\x07"))
        case 15:
            length = struct.pack("<Q", some)
            return rng.choice((b"\x8e", b"\x8d", b"\x96", b"\x95")) + length + b"xx"
        case 16:
            return rng.choice(
                (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Px\n", b"\x97\x98")
            )
        case 17:
            return b"L" + b"9" * rng.choice((20, 5000)) + b"L\n"
        case 18:
            return b"(" + inner() + b"\x91"
        case _:
            fields = (
                "rebuild",
                "kind",
                "key",
                "numel",
                "offset",
                "size",
                "strides",
                "grad",
                "hooks",
                "more",
            )
            chosen = rng.sample(fields, rng.choice((1, 1, 2)))
            odd = (-1, some, (), (some,), (some, 2), (2, 2), "x", None, 0)
            changes = {n: rng.choice((inner(), rng.choice(odd), ours)) for n in chosen}
            return Writer().tensor(np.arange(6, dtype="<f4"), **changes)


def steps(pickled: bytes) -> list[bytes]:
    """The opcodes of a pickle, each with its argument."""
    places = [place for _, _, place in pickletools.genops(pickled)]
    return [pickled[a:b] for a, b in zip(places, [*places[1:], len(pickled)])]


def changed(pickled: bytes, rng: random.Random) -> bytes:
    """A pickle with opcodes taken out, copied, exchanged, of other arguments, and put in."""
    ops = steps(pickled)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(ops))
        match rng.randrange(8):
            case 0:
                del ops[place]
            case 1:
                ops.insert(place, ops[place])
            case 2:
                ops.insert(place, rng.choice(ops))
            case 3:
                other = rng.randrange(len(ops))
                ops[place], ops[other] = ops[other], ops[place]
            case 4:  # an argument
                width = len(ops[place]) - 1
                value = rng.choice(NUMBERS) % 256 ** max(width, 1)
                ops[place] = ops[place][:1] + value.to_bytes(max(width, 1), "little")[:width]
            case 5:
                ops.insert(place, hostile(rng))
            case 6:
                ops.insert(place, hostile(rng) + b"0")  # and popped
            case 7:
                ops[place] = hostile(rng)
        if not ops:
            break
    return b"".join(ops)
