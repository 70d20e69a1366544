"""Safetensors: weights, and folders of latents with their statistics, record and digests."""

import json
import pathlib
import random
import struct
from collections.abc import Iterator

import numpy as np
import safetensors.numpy

from lightningdit_jax.convert.source import read_source
from lightningdit_jax.data.latents import (
    LatentShards,
    compute_stats,
    load_stats,
    save_stats,
    write_shard,
)
from lightningdit_jax.data.latents_record import RECORD
from lightningdit_jax.verification import verifying
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind
from tests.fuzz.pickles import Writer, hostile
from tests.fuzz.torch_kinds import ARRAYS, equal, flat, zip_file

_DTYPES = ("F32", "F64", "BF16", "F16", "F8_E4M3", "F8_E8M0", "F4", "I64", "BOOL", "C64", "f32", "")
_OFFSETS = ([0, 0], [8, 4], [-1, 4], [0, 2**63], [0.0, 4], [0], [0, 1, 2], "x", None)
_SHAPES = ([], [0], [2**40, 0], [-1], [2.0], [2**63, 2], [2**32, 2**32], [6, 1], ["2"], None)


def parts(content: bytes) -> tuple[dict, bytes]:
    """The header and the tensors' bytes."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length % 2**64) + header + data


def changed(content: bytes, rng: random.Random) -> bytes:
    """Of a file of tensors: its bytes, its header, what the header claims."""
    header, data = parts(content)
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    match rng.randrange(10):
        case 0 | 1:
            return mutations.of_bytes(content, rng)
        case 2:
            return joined(mutations.json_text(header, rng), data)
        case 3:
            header[name]["data_offsets"] = rng.choice(_OFFSETS)
        case 4:
            header[name]["shape"] = rng.choice(_SHAPES)
        case 5:
            header[name]["dtype"] = rng.choice((*_DTYPES, 7, None, ["F32"]))
        case 6:
            other = rng.choice((*mutations.TEXTS, "__metadata__", f"module.{name}", name + ".x"))
            header[other] = header.pop(name)
        case 7:
            length = rng.choice(
                (*mutations.NUMBERS, len(json.dumps(header)) + rng.randrange(-9, 9))
            )
            return joined(json.dumps(header).encode(), data, length)
        case 8:  # a name twice
            text = json.dumps(header)
            return joined(f"{text[:-1]}, {json.dumps({name: header[name]})[1:]}".encode(), data)
        case _:
            header["__metadata__"] = rng.choice(
                ({"x": 1}, {"x": "y" * 999}, [], 7, None, {"\n": "\n"})
            )
    return joined(json.dumps(header).encode(), data)


def weights() -> bytes:
    return safetensors.numpy.save(ARRAYS, {"format": "pt"})


def _weights_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"weights {seed} {number}")
        yield Input({"x.safetensors": changed(weights(), rng)})


def _against_the_library(folder: pathlib.Path, given: Input, read: dict) -> str:
    """Names of wrapped modules are taken out of ours."""
    try:
        theirs = safetensors.numpy.load_file(folder / "x.safetensors")
    except AttributeError:  # types that the library lacks where NumPy does
        return ""
    ours = list(read.values())
    for name, array in theirs.items():
        if not any(equal(array, other) for other in ours):
            return f"{name} {array.dtype} {array.shape} is read as something else"
    return "" if len(ours) == len(theirs) else f"{len(theirs)} tensors are read as {len(ours)}"


def write_latents(folder: pathlib.Path) -> None:
    latents = np.random.default_rng(0).normal(size=(2, 6, 2, 2, 3)).astype(np.float32)
    labels = np.arange(6) % 4
    for shard, rows in enumerate((slice(0, 2), slice(2, 6))):
        write_shard(folder, 0, shard, latents[0, rows], latents[1, rows], labels[rows])
    save_stats(folder, compute_stats(LatentShards(folder)))
    record = {"tokenizer": "f00", "images": {"count": 6, "files": "ab"}, "class_names": [*"abcd"]}
    (folder / RECORD).write_text(json.dumps(record))


def _latents_inputs(seed: int, count: int) -> Iterator[Input]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_latents(pathlib.Path(folder))
        files = {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}
    digests = "extraction.rank00.json"
    for number in range(count):
        rng = random.Random(f"latents {seed} {number}")
        shard = rng.choice(("latents_rank00_shard000.safetensors", "latents_stats.safetensors"))
        case = rng.randrange(9)
        # Without digests the rest has to notice what can be noticed.
        changes = {digests: None} if rng.random() < 0.7 else {}
        if case < 4:
            changes[shard] = changed(files[shard], rng)
        elif case == 4:
            changes[RECORD] = mutations.json_text(json.loads(files[RECORD]), rng)
        elif case == 5:
            changes[digests] = mutations.json_text(json.loads(files[digests]), rng)
        elif case == 6:
            changes["latents_stats.safetensors"] = None
            changes["latents_stats.pt"] = _statistics(rng)
        elif case == 7:
            changes[rng.choice(list(files))] = rng.choice((None, b"", b"{}"))
        else:
            changes["latents_rank01_shard000.safetensors"] = changed(files[shard], rng)
        yield Input(changes)


def _statistics(rng: random.Random) -> bytes:
    """As the release has them, with numbers that are none."""
    writer = Writer()
    values = np.array(
        rng.choice(([1, 2, 3], [0, 1, 2], [np.nan, 1, 1], [np.inf, 1, 1], [1, 1], []))
    )
    array = values.astype("<f4").reshape(1, -1, 1, 1)
    pickled = writer.pickle({"mean": np.zeros_like(array), "std": array})
    if rng.random() < 0.5:
        pickled = pickled.removesuffix(b".") + writer.value("std") + hostile(rng) + b"s."
    return zip_file(pickled, writer.storages)


def _read_latents(folder: pathlib.Path, given: Input):
    try:
        shards, stats = LatentShards(folder), load_stats(folder)
        shards.check(3, 2, 4)
    except ValueError:
        with verifying(False):  # the impatient are to be told in a line too
            shards, stats = LatentShards(folder), load_stats(folder)
            shards.check(3, 2, 4)
    every, unflipped = np.arange(len(shards)), np.zeros(len(shards), bool)
    return shards.read(every, unflipped), shards.read(every, ~unflipped), shards.labels, stats


def _against_files(folder: pathlib.Path, given: Input, read) -> str:
    """The shards by the library, and one after the other."""
    paths = sorted(folder.glob("latents_rank*.safetensors"))
    theirs = [safetensors.numpy.load_file(path) for path in paths]
    names = ("latents", "latents_flip", "labels")
    for name, ours in zip(names, read):
        whole = np.concatenate(
            [file[name].astype(ours.dtype) for file in theirs if len(file[name])]
        )
        whole = whole.transpose(0, 2, 3, 1) if whole.ndim == 4 else whole
        if not equal(np.ascontiguousarray(ours), np.ascontiguousarray(whole)):
            return f"{name} differ"
    numbers = [*read[3].mean, *read[3].std]
    good = all(np.isfinite(numbers)) and all(n > 0 for n in read[3].std)
    return "" if good else f"statistics {numbers}"


KINDS = (
    Kind(
        "safetensors of weights",
        lambda folder: (folder / "x.safetensors").write_bytes(weights()) and None,
        _weights_inputs,
        lambda folder, given: flat(read_source(folder / "x.safetensors").tensors),
        _against_the_library,
    ),
    Kind("folders of latents", write_latents, _latents_inputs, _read_latents, _against_files),
)
