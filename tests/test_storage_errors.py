"""What a file system refuses becomes one line that names the path, wherever it is written."""

import errno
import json
import os
import subprocess
import sys

import pytest

from lightningdit_jax.assembly.describe import describe
from lightningdit_jax.atomic_file import replacing, write_json
from lightningdit_jax.checkpoint import find_checkpoint
from lightningdit_jax.convert.folders import find_weights
from lightningdit_jax.data.images import ImageFolder
from lightningdit_jax.data.labeled_files import LabeledFiles
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.reference_moments import moments_from_npz
from lightningdit_jax.inference.quality.comparison import read_evaluations
from lightningdit_jax.storage_errors import StorageError, storage_error
from lightningdit_jax.torch_reader import read_torch

READERS = {
    "a checkpoint": find_checkpoint,
    "a run that is described": describe,
    "a folder of latents": LatentShards,
    "a folder of images": ImageFolder,
    "a labeled folder": lambda path: LabeledFiles(path, "labels.csv"),
    "samples": NpzImages,
    "a reference": moments_from_npz,
    "evaluations": read_evaluations,
    "weights of PyTorch": read_torch,
    "a source of weights": find_weights,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_shown_is_not_called_missing(tmp_path, reader):
    """As another user where this is root, who is shown everything."""
    folder, is_root = tmp_path / "closed", os.geteuid() == 0
    folder.mkdir(mode=0o000)
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, check=lambda e: not isinstance(e, FileNotFoundError)) as raised:
            READERS[reader](str(folder / "x"))
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
    assert "x: Permission denied (EACCES); get the perm" in str(storage_error(raised.value))
    with pytest.raises(FileNotFoundError, match="no such"):
        READERS[reader](str(folder / "x"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "/a/b"), r"^/a/b: No space left .* \(ENOSPC\); make room$"),
        (OSError(errno.EDQUOT, "x"), r"^p: Disk quota exceeded \(EDQUOT\); make room, or have"),
        (PermissionError(errno.EACCES, "x", "/a"), r"^/a: Permission denied \(EACCES\); get"),
        # As TensorStore, safetensors and the profiler say it.
        (
            ValueError("RESOURCE_EXHAUSTED: Failed to write 8 bytes [os_error_code='28']"),
            r"^p: No space left",
        ),
        (RuntimeError("I/O error: Too many open files (os error 24)"), r"^p: Too many open.*ulim"),
        (RuntimeError('opening "/c/d": Read-only file system'), r"^p: Read-only file system"),
    ],
)
def test_the_line(error, said):
    found = storage_error(error, "p")
    assert isinstance(found, StorageError)
    with pytest.raises(StorageError, match=said):
        raise found
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert str(storage_error(wrapped, "p")) == str(found)
    assert storage_error(found) is found


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a shape of 28"),
        FileNotFoundError("no checkpoint at x"),  # of our own words
        ConnectionRefusedError(errno.ECONNREFUSED, "x"),
        KeyError("[os_error_code='9999']"),
    ],
)
def test_what_says_nothing_of_storage(error):
    assert storage_error(error) is None


def test_what_had_the_name_still_has_it(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(StorageError, match=r"x\.json: Input/output error"), replacing(path) as new:
        new.write_text("half")
        raise OSError(errno.EIO, "x")
    with pytest.raises(ValueError, match="of a check"), replacing(path) as new:
        new.write_text("half")
        raise ValueError("of a check") from OSError(errno.ENOENT, "x")
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each writer says under each limit, in a process that can be limited, and its folder."""
    folder = tmp_path_factory.mktemp("limited")
    command = [sys.executable, "-m", "tests.storage_process", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return json.loads(done.stdout), folder


@pytest.mark.parametrize(
    ("limit", "word"), [("RLIMIT_FSIZE", "EFBIG"), ("RLIMIT_NOFILE", "EMFILE")]
)
def test_every_writer_says_it(refusals, limit, word):
    said, folder = refusals
    assert len(said[limit]) == 9
    for name, line in said[limit].items():
        assert str(folder / limit / name) in line and f"({word})" in line, (name, line)
    left = {p for p in (folder / limit).rglob("*") if p.is_file()}
    names = {str(path.relative_to(folder / limit)).split("events")[0] for path in left}
    whole = {"a record/metrics.jsonl", "a record/tensorboard/", "a part/samples.parts/samples.json"}
    assert {name for name in names if ".orbax-checkpoint-tmp" not in name} <= whole
