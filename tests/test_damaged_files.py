"""Damage of JSON, .npz and .pt files by hand: one line that names the file. More: tests/fuzz."""

import json
import zipfile

import numpy as np
import pytest

from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.npz_reader import read_npz
from lightningdit_jax.torch_reader import read_torch
from lightningdit_jax.training.writer import MetricWriter
from tests.golden import GOLDEN


def torch_file(path):
    path.write_bytes((GOLDEN / "latents" / "latents_stats.pt").read_bytes())


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
