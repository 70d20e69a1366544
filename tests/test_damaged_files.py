"""Bytes changed in JSON, .npz and .pt files: one line that names the file, or what was written."""

import copy
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from etils import epath

from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.checkpoint import read_meta
from lightningdit_jax.data.latents_record import read_record
from lightningdit_jax.data.npz_images import NpzImages, write_npz_images
from lightningdit_jax.evaluation.frechet import moments_from_npz
from lightningdit_jax.inference.quality.evaluated_file import samples_identity
from lightningdit_jax.inference.quality.sweep import read_rows
from lightningdit_jax.npz_reader import read_npz
from lightningdit_jax.torch_reader import read_torch
from lightningdit_jax.training.writer import MetricWriter
from tests.golden import GOLDEN

RECORD = {"tokenizer": "f00", "images": {"count": 3, "files": "ab"}, "class_names": ["a", "b"]}
ROWS = [{"settings": {"seed": 0}, "numbers": {"fid": 1.5}, "seconds": 2.0}]
MADE_WITH = {"seed": 0, "runtime": {"seconds": 1.0}}
META = {"format_version": 1, "kind": "vavae", "architecture": {"ch": 4}, "step": 3}


def write_samples(path):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    write_npz_images(path, [images], images.shape, {"arr_1": np.arange(2)})


def read_samples(path):
    images, labels = NpzImages(path), read_npz(path, ["arr_1"])
    if not labels:
        raise ValueError(f"{path} lacks labels")
    return [*images.batches(2, 0, len(images)), *labels.values()]


def write_reference(path):
    arrays = {"mu": np.ones(2), "sigma": np.eye(2), "mu_s": np.ones(3), "sigma_s": np.eye(3)}
    np.savez(path, **arrays, extractor=np.array(json.dumps({"network": "x"})))


def read_reference(path):
    moments = moments_from_npz(str(path))
    return [*moments.pool, *moments.spatial]  # without a name that need not be there


def torch_file(path):
    path.write_bytes((GOLDEN / "latents" / "latents_stats.pt").read_bytes())


def read_described(path):
    samples = path.parent / "samples.npz"
    if not samples.exists():
        write_samples(samples)
    return samples_identity(NpzImages(samples))["made_with"]


# name of the file: (content, or what writes it, what reads it).
FILES = {
    "extraction.json": (RECORD, lambda path: read_record(epath.Path(path.parent))),
    "sweep.json": (ROWS, read_rows),
    "samples.json": (MADE_WITH, read_described),
    "x/meta/metadata": (META, lambda path: read_meta(epath.Path(path.parent.parent))),
    "samples.npz": (write_samples, read_samples),
    "reference.npz": (write_reference, read_reference),
    "weights.pt": (torch_file, read_torch),
}


def mutated(content, rng):
    """A few bytes changed, taken out or put in, or the end cut off."""
    content, place = bytearray(content), int(rng.integers(len(content)))
    kind = rng.integers(4)
    if kind == 0:
        del content[place : place + int(rng.integers(1, 9))]
    elif kind == 1:
        content[place:place] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 2:
        content[place] ^= 1 << int(rng.integers(8))
    else:
        del content[place:]
    return bytes(content)


def same(a, b):
    return json.dumps(a, default=lambda x: x.tolist()) == json.dumps(
        b, default=lambda x: x.tolist()
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_change_ends_in_anything_but_one_line(tmp_path, name, count):
    """And arrays, which have checksums, are as they were written wherever something is read."""
    written, read = FILES[name]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(written):
        written(path)
    else:
        path.write_text(json.dumps(written))
    content, wanted = path.read_bytes(), copy.deepcopy(read(path))  # a mapped file is written over
    rng, refused, changed = np.random.default_rng(1), 0, 0
    tracemalloc.start()
    for _ in range(count):
        path.write_bytes(mutated(content, rng))
        try:
            found = read(path)
        except (ValueError, FileNotFoundError) as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error), error
            refused += 1
        else:
            changed += not same(found, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > count / 2
    assert changed == 0 or path.suffix not in (".npz", ".pt")
    assert peak < 2**25, "memory is bounded by the file's size"


def test_what_claims_to_be_large_is_refused_before_memory_is_asked_for(tmp_path):
    path = tmp_path / "x.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    npy = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", npy)
    with pytest.raises(
        ValueError, match=r"x\.npz is damaged .*claims to be float64 \(1000000, 1000000\)"
    ):
        read_npz(path, ["mu"])


@pytest.mark.parametrize("text", ["[1]", "3", "[" * 100_000, "\ufeff{}", "1" * 5000])
def test_json_of_another_kind(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        read_json(path)


def test_damaged_lines_of_the_log_are_left_out(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    bad = [b'{"step": 2, "lo', b"[1]", b'{"loss": 1.0}', b"\xff\xfe", b'{"step": "x"}']
    path.write_bytes(b"\n".join([good[0].encode(), *bad, good[1].encode(), good[2].encode()]))
    MetricWriter(tmp_path, start_step=2).close()
    assert path.read_text().splitlines() == good[:2]
    assert f"{path}: damaged lines are left out: 2, 3, 4 and 2 more" in caplog.text


def test_checksums_of_a_pytorch_file(tmp_path):
    """One flipped bit of a tensor; and a file whose writer computed no checksums."""
    path = tmp_path / "x.pt"
    torch_file(path)
    content, wanted = path.read_bytes(), read_torch(path)
    place = content.index(wanted["mean"].tobytes()) + 1
    flipped = bytearray(content)
    flipped[place] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"x\.pt: '.*/data/0' is damaged: its bytes are not"):
        read_torch(path)
    for entry in zipfile.ZipFile(tmp_path / "x.pt").infolist():
        crc = entry.CRC.to_bytes(4, "little")
        content = content.replace(crc, bytes(4))
    path.write_bytes(content)
    np.testing.assert_array_equal(read_torch(path)["mean"], wanted["mean"])
