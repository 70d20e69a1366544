"""The stored golden cases against the PyTorch release, where checkouts of it are at hand."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import golden

CHECKOUTS = {"release": "LIGHTNINGDIT_RELEASE", "taming": "TAMING_TRANSFORMERS"}
PACKAGES = ("torch", "torchvision", "timm", "torchdiffeq", "einops", "transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in CHECKOUTS.values())
        or not all(importlib.util.find_spec(package) for package in PACKAGES),
        reason="set LIGHTNINGDIT_RELEASE and TAMING_TRANSFORMERS to clones of "
        "hustvl/LightningDiT and CompVis/taming-transformers, pip install -e '.[golden]'",
    ),
]
ROOT = pathlib.Path(__file__).parents[1]


def make(*arguments):
    """The command on the checkouts."""
    command = [sys.executable, "-m", "tests.make_golden", *arguments]
    command += [f"--{option}={os.environ[name]}" for option, name in CHECKOUTS.items()]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_release_makes_every_case_as_stored():
    done = make("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    # Of the entries in index.json only this has no file here; manifests/ is a case without entry.
    assert "not made: weight_init\n" in done.stdout
    cases = len(golden.index())
    assert done.stdout.endswith(f"{cases} of {cases} cases are as stored\n")


def test_a_new_case_is_drawn_and_a_changed_number_is_found(tmp_path):
    name = "lightningdit_patch2"
    shutil.copy(golden.GOLDEN / "index.json", tmp_path)
    case = [f"--cases={name}", f"--golden={tmp_path}"]
    missing = make("--check", *case)
    assert missing.returncode == 2 and "--output" in missing.stderr
    assert make(f"--output={tmp_path}", *case).returncode == 0
    assert make("--check", *case).returncode == 0
    weights = load_file(tmp_path / golden.index()[name]["weights"])
    assert weights.keys() == golden.load_weights(name).keys()
    assert all(np.any(tensor) for tensor in weights.values())
    tensors = load_file(tmp_path / f"{name}.safetensors")
    assert not np.array_equal(tensors["in.x"], golden.load(name)["in.x"])

    bound = golden.index()[name]["tolerance"]["atol"]
    tensors["out.y"][1, 2, 3, 4] += 2 * bound + 1e-3 * abs(tensors["out.y"][1, 2, 3, 4])
    save_file(tensors, tmp_path / f"{name}.safetensors")
    changed = make("--check", *case)
    assert changed.returncode == 1
    assert "out.y" in changed.stdout and "0 of 1 cases" in changed.stdout
