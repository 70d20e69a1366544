"""PyTorch files: zip archives, the format before them, plain pickles of NumPy arrays."""

import io
import pathlib
import pickle
import random
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lightningdit_jax.convert.source import read_source
from lightningdit_jax.torch_reader import LEGACY_START, read_torch
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind
from tests.fuzz.pickles import Writer, changed, hostile
from tests.golden import GOLDEN

ARRAYS = {
    "w": np.arange(6, dtype="<f4").reshape(2, 3),
    "b": np.arange(3, dtype="<i8"),
    "s": np.array(2.5, "<f8"),
    "e": np.zeros((0, 3), "<f4"),
}
CONTENT = {
    "model": OrderedDict(ARRAYS),
    "ema": OrderedDict(
        {name: np.asarray(array + array.dtype.type(1)) for name, array in ARRAYS.items()}
    ),
    "opt": {"state": {0: {"step": 3.0}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]},
    "name": "x",
}


def zip_file(pickled: bytes, storages: list[bytes], **changes: Any) -> bytes:
    """changes: method, of the members; others by name."""
    method = changes.pop("method", zipfile.ZIP_STORED)
    members = {"x/data.pkl": pickled, "x/byteorder": b"little", "x/version": b"3\n"}
    members |= {f"x/data/{i}": data for i, data in enumerate(storages)} | changes
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def legacy_file(pickled: bytes, storages: list[bytes], sizes: list[int] | None = None) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = LEGACY_START + pickle.dumps(1001, 2) + pickle.dumps(system, 2)
    keys = pickle.dumps([str(i) for i in range(len(storages))], 2)
    sizes = sizes or [len(data) // 4 for data in storages]
    body = b"".join(struct.pack("<q", n) + data for n, data in zip(sizes, storages))
    return head + pickled + keys + body


def seeds() -> list[bytes]:
    """Archives: of a training checkpoint, and those of the golden set."""
    golden = GOLDEN / "checkpoints"
    names = ("dtypes_and_views.pt", "unsafe_getenv.pt", "unsafe_eval.pt")
    files = [(golden / name).read_bytes() for name in names]
    writer = Writer()
    return [zip_file(writer.pickle(CONTENT), writer.storages), *files]


def legacy_seeds() -> list[bytes]:
    writer = Writer(b"N")
    floats = {"ema": {"w": ARRAYS["w"], "v": ARRAYS["w"].T}}
    made = legacy_file(writer.pickle(floats), writer.storages)
    return [made, (GOLDEN / "checkpoints" / "legacy_format.pt").read_bytes()]


def _zip_inputs(seed: int, count: int) -> Iterator[Input]:
    files = seeds()
    for number in range(count):
        rng = random.Random(f"zip {seed} {number}")
        yield Input({"x.pt": _zip_input(rng, files)})


def _zip_input(rng: random.Random, files: list[bytes]) -> bytes:
    writer = Writer()
    whole = writer.pickle(CONTENT)
    match rng.randrange(8):
        case 0 | 1:
            return mutations.of_bytes(rng.choice(files), rng)
        case 2 | 3:
            return zip_file(changed(whole, rng), writer.storages)
        case 4:  # beside tensors that can be read
            pickled = whole.removesuffix(b".") + writer.value("more") + hostile(rng, 4) + b"s."
            return zip_file(pickled, writer.storages)
        case 5:
            return zip_file(b"\x80\x02" + hostile(rng, 5) + b".", writer.storages)
        case 6:
            return _odd_archive(rng, whole, writer.storages)
    return _claims(rng, zip_file(whole, writer.storages))


def _odd_archive(rng: random.Random, pickled: bytes, storages: list[bytes]) -> bytes:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    method = rng.choice(methods)
    match rng.randrange(6):
        case 0:
            return zip_file(pickled, storages, method=method)
        case 1:
            return zip_file(pickled, [bytes(2**24)], method=method)  # a bomb
        case 2:
            return zip_file(
                pickled, storages, **{"x/byteorder": rng.choice((b"big", b"", bytes(9)))}
            )
        case 3:
            return zip_file(pickled, storages, **{"y/data.pkl": pickled, "../x": b"x"})
        case 4:
            return zip_file(pickled, storages[: rng.randrange(len(storages))], method=method)
        case _:
            cut = [data[: rng.randrange(len(data) + 1)] for data in storages]
            return zip_file(pickled, cut, method=method)


def _claims(rng: random.Random, content: bytes) -> bytes:
    """Fields of the directory and of local headers that say other things; checksums may be none."""
    data = bytearray(content)
    fields = {
        b"PK\x01\x02": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)),
        b"PK\x03\x04": ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
        b"PK\x05\x06": ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    }
    for _ in range(rng.choice((1, 1, 2, 3))):
        sign = rng.choice(tuple(fields))
        places = [i for i in range(len(data)) if data.startswith(sign, i)]
        offset, width = rng.choice(fields[sign])
        begin = rng.choice(places) + offset
        value = rng.choice((*mutations.NUMBERS, 8, 12, 14, 99)) % 256**width
        data[begin : begin + width] = value.to_bytes(width, "little")
    if rng.random() < 0.3:  # as of a writer that computes no checksums
        for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
            data = data.replace(struct.pack("<I", info.CRC), bytes(4))
    return bytes(data)


def _legacy_inputs(seed: int, count: int) -> Iterator[Input]:
    files = legacy_seeds()
    for number in range(count):
        rng = random.Random(f"legacy {seed} {number}")
        writer = Writer(b"N")
        whole = writer.pickle({"ema": {"w": ARRAYS["w"], "v": ARRAYS["w"].T}})
        match rng.randrange(6):
            case 0 | 1:
                content = mutations.of_bytes(rng.choice(files), rng)
            case 2:
                content = legacy_file(changed(whole, rng), writer.storages)
            case 3:
                pickled = whole.removesuffix(b".") + writer.value("x") + hostile(rng, 4) + b"s."
                content = legacy_file(pickled, writer.storages)
            case 4:
                sizes = [rng.choice(mutations.NUMBERS) % 2**63 for _ in writer.storages]
                content = legacy_file(whole, writer.storages, sizes)
            case _:  # in place of the system's description, or of the keys
                place = rng.choice((pickle.dumps(1001, 2), whole))
                odd = b"\x80\x02" + hostile(rng, 3) + b"."
                content = legacy_file(whole, writer.storages).replace(place, place + odd, 1)
        yield Input({"x.pt": content})


def _numpy_pickle() -> bytes:
    return pickle.dumps({"params": {"conv": {"w": ARRAYS["w"], "b": ARRAYS["b"]}}}, 3)


def _numpy_inputs(seed: int, count: int) -> Iterator[Input]:
    whole = _numpy_pickle()
    for number in range(count):
        rng = random.Random(f"numpy {seed} {number}")
        match rng.randrange(4):
            case 0:
                content = mutations.of_bytes(whole, rng)
            case 1 | 2:
                content = changed(whole, rng)
            case _:
                content = whole.removesuffix(b".") + b"X\x01\x00\x00\x00x" + hostile(rng, 4) + b"s."
        yield Input({"x.ckpt": content})


def flat(value: Any, depth: int = 0) -> dict[str, np.ndarray]:
    """All arrays of what was read, by the way to them; each of them is looked at."""
    if isinstance(value, np.ndarray):
        zlib.crc32(np.ascontiguousarray(value).view(np.uint8).tobytes() if value.size else b"")
        return {"": value}
    found = {}
    if isinstance(value, dict) and depth < 9:
        for key, child in value.items():
            if isinstance(key, str):
                found |= {f"{key}.{k}": v for k, v in flat(child, depth + 1).items()}
    return found


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _read(name: str) -> Callable[[pathlib.Path, Input], Any]:
    def read(folder: pathlib.Path, given: Input) -> dict[str, np.ndarray]:
        if name != "x.ckpt":
            read_torch(folder / name)
        return flat(read_source(folder / name).tensors)

    return read


def _prepared(name: str, content: Callable[[], bytes]) -> Callable[[pathlib.Path], None]:
    return lambda folder: (folder / name).write_bytes(content()) and None


def _against_torch(folder: pathlib.Path, given: Input, read: dict) -> str:
    """What PyTorch reads with weights_only, where it is installed and reads it, is the same."""
    try:
        import torch
    except ImportError:
        return ""
    try:
        theirs = flat_torch(torch.load(folder / "x.pt", weights_only=True, map_location="cpu"))
    except Exception:
        return ""
    for name, array in flat(read_torch(folder / "x.pt")).items():
        if name in theirs and not equal(array, theirs[name]):
            return f"{name} is {array.dtype} {array.shape}, by PyTorch {theirs[name].dtype}"
    return ""


def flat_torch(value: Any) -> dict[str, np.ndarray]:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg()
        try:
            return {"": value.numpy()}
        except TypeError:  # a type that NumPy lacks
            return {}
    found = {}
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(key, str):
                found |= {f"{key}.{k}": v for k, v in flat_torch(child).items()}
    return found


KINDS = (
    Kind(
        ".pt, zip",
        _prepared("x.pt", lambda: seeds()[0]),
        _zip_inputs,
        _read("x.pt"),
        _against_torch,
    ),
    Kind(
        ".pt, before 1.6",
        _prepared("x.pt", lambda: legacy_seeds()[0]),
        _legacy_inputs,
        _read("x.pt"),
        _against_torch,
    ),
    Kind(
        "pickle of NumPy arrays", _prepared("x.ckpt", _numpy_pickle), _numpy_inputs, _read("x.ckpt")
    ),
)
