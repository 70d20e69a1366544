"""Archives of NumPy arrays: samples, parts of them, reference files."""

import io
import json
import pathlib
import random
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.data.npz_images import NpzImages, write_npz_images
from lightningdit_jax.data.sample_parts import find_parts, write_part
from lightningdit_jax.evaluation.reference_moments import moments_from_npz
from lightningdit_jax.npz_reader import read_npz
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind
from tests.fuzz.torch_kinds import equal

IMAGES = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
LABELS = np.arange(4, dtype=np.int32)
_DESCRIPTIONS = (
    "'|u1'", "'<f8'", "'>f8'", "'|O'", "'<U3'", "'|V9'", "'|S0'", "'<M8[s]'", "'<c16'", "'<f2'",
    "[('a', '<f8'), ('b', '|O')]", "'<f8,<f8'", "'|V99999999999'", "('<f8', (2, 2))", "None", "7",
    "('<f8',)", "'('", "'x' * 9", "__import__('os').system('touch sentinel')", "'float64'",
)  # fmt: skip
_SHAPES = (
    "()", "(4,)", "(4, 4, 4, 3)", "(2, 2)", "(0,)", "(-1,)", "(1000000, 1000000)", "[4]", "(4)",
    "(2.0, 2)", "(True, 4)", "None", "(" * 200 + ")" * 200, "(99999999999999999999, 0)", "('4',)",
    "(4, 4, 4, 3, 1)", f"({'9' * 5000},)", "(1j,)", "4**4**9,",
)  # fmt: skip


def npy(array: np.ndarray, description: str = "", shape: str = "", version: int = 1) -> bytes:
    """A .npy member whose header may say other things."""
    description = description or repr(np.lib.format.dtype_to_descr(array.dtype))
    header = (
        f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape or array.shape}, }}"
    )
    return raw_npy(header.encode(), array.tobytes(), version)


def raw_npy(header: bytes, data: bytes, version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    length = len(header) % 256**width
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(width, "little") + header + data


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy".replace("\0", "0"), data)
    return file.getvalue()


def _changed(arrays: dict[str, np.ndarray], rng: random.Random) -> bytes:
    members = {name: npy(array) for name, array in arrays.items()}
    name = rng.choice(list(members))
    array = arrays[name]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    method = rng.choice((zipfile.ZIP_STORED, *methods))
    match rng.randrange(11):
        case 0 | 1 | 2:
            return mutations.of_bytes(archive(members, method), rng)
        case 3:
            members[name] = npy(array, description=rng.choice(_DESCRIPTIONS))
        case 4:
            members[name] = npy(array, shape=rng.choice(_SHAPES))
        case 5:
            description, shape = rng.choice(_DESCRIPTIONS), rng.choice(_SHAPES)
            members[name] = npy(array, description, shape, rng.choice((1, 2, 3, 9)))
        case 6:
            members[name] = mutations.of_bytes(members[name], rng)
        case 7:
            members[name] = members[name][: rng.randrange(len(members[name]))]
        case 8:
            members[name] += bytes(rng.choice((1, 100, 2**22)))
        case 9:
            text = rng.choice(
                ("[" * 5000, "{" * 200, "-" * 9000 + "1", "", "{}", "1", "{'descr': 1}")
            )
            members[name] = raw_npy(text.encode(), array.tobytes())
        case 10:
            del members[name]
            members[rng.choice(mutations.TEXTS)] = b""
    return archive(members, method)


def _samples_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"samples {seed} {number}")
        yield Input({"samples.npz": _changed({"arr_0": IMAGES, "arr_1": LABELS}, rng)})


def _read_samples(folder: pathlib.Path, given: Input) -> dict[str, np.ndarray]:
    images = NpzImages(folder / "samples.npz")
    found = {"arr_0": np.concatenate(list(images.batches(3, 0, len(images))))}
    return found | read_npz(folder / "samples.npz", ["arr_1"])


def _against_numpy(folder: pathlib.Path, given: Input, read: dict[str, np.ndarray]) -> str:
    with np.load(next(folder.glob("*.npz")), allow_pickle=False) as theirs:
        for name, array in read.items():
            if not equal(array, theirs[name]):
                return f"{name} {array.dtype} {array.shape} differs from NumPy's"
    return ""


REFERENCE = {
    "mu": np.arange(2.0),
    "sigma": np.eye(2),
    "mu_s": np.ones(3),
    "sigma_s": np.eye(3),
    "extractor": np.array(json.dumps({"network": "x"})),
}


def _reference_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"reference {seed} {number}")
        arrays = dict(REFERENCE)
        if rng.random() < 0.3:
            odd = (np.nan, np.inf, 1e308, "x", np.array([1.0]), np.ones((2, 2, 2)), 1j, True)
            arrays[rng.choice(list(arrays))] = np.asarray(rng.choice(odd))
        if rng.random() < 0.2:
            text = mutations.json_text({"network": "x"}, rng).decode(errors="ignore")
            arrays["extractor"] = np.array(text)
        yield Input({"reference.npz": _changed(arrays, rng)})


def _read_reference(folder: pathlib.Path, given: Input) -> dict[str, np.ndarray]:
    moments = moments_from_npz(str(folder / "reference.npz"))
    names = ("mu", "sigma", "mu_s", "sigma_s")
    return dict(zip(names, (*moments.pool, *moments.spatial)))


def _against_numpy_as_numbers(folder: pathlib.Path, given: Input, read: dict) -> str:
    with np.load(folder / "reference.npz", allow_pickle=False) as theirs:
        for name, array in read.items():
            if (
                not equal(array, np.asarray(theirs[name], np.float64))
                or not np.isfinite(array).all()
            ):
                return f"{name} differs from NumPy's"
    return ""


def _write_parts(folder: pathlib.Path) -> None:
    write_part(epath.Path(folder), 0, IMAGES)


def _part_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"parts {seed} {number}")
        match rng.randrange(4):
            case 0:
                content = mutations.of_bytes(npy(IMAGES), rng)
            case 1:
                content = npy(IMAGES, rng.choice(_DESCRIPTIONS), version=rng.choice((1, 2, 3)))
            case 2:
                content = npy(IMAGES, shape=rng.choice(_SHAPES))
            case _:
                content = raw_npy(rng.choice((b"[" * 5000, b"", b"{}")), IMAGES.tobytes())
        name = rng.choice(("00000004_4.npy", "00000004_4_0123456789abcdef.npy", "99999999_9.npy"))
        yield Input({name: content})


def _read_parts(folder: pathlib.Path, given: Input) -> list[np.ndarray]:
    return [part.read(verify=True) for part in find_parts(epath.Path(folder))]


def _right_parts(folder: pathlib.Path, given: Input, read: list[np.ndarray]) -> str:
    for path, array in zip(sorted(folder.glob("*.npy")), read, strict=True):
        if not equal(array, np.load(path, allow_pickle=False)):
            return f"{path.name} differs"
    return ""


def _write_samples(folder: pathlib.Path) -> None:
    write_npz_images(folder / "samples.npz", [IMAGES], IMAGES.shape, {"arr_1": LABELS})


def _write_reference(folder: pathlib.Path) -> None:
    arrays: Any = REFERENCE
    np.savez(folder / "reference.npz", **arrays)


# A byte that is compressed may stand for 1,032, of which there are two copies while it is read.
KINDS = (
    Kind("samples.npz", _write_samples, _samples_inputs, _read_samples, _against_numpy, 2200),
    Kind(
        "reference .npz",
        _write_reference,
        _reference_inputs,
        _read_reference,
        _against_numpy_as_numbers,
        2200,
    ),
    Kind("parts of samples", _write_parts, _part_inputs, _read_parts, _right_parts),
)
