"""Full-size models against the authors' PyTorch code, where a checkout of it is at hand."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

RELEASE = os.environ.get("LIGHTNINGDIT_RELEASE", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not RELEASE or importlib.util.find_spec("torch") is None,
        reason="set LIGHTNINGDIT_RELEASE to a clone of hustvl/LightningDiT and install torch, timm",
    ),
]
ROOT = pathlib.Path(__file__).parents[2]


def test_full_size_models_equal_the_release(tmp_path):
    """XL/1 at 16x16x32 and VA-VAE f16d32 at 256x256; their files there and back, strict."""
    command = [sys.executable, "-m", "benchmarks.release_parity"]
    command += [f"--release={RELEASE}", f"--scratch={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((tmp_path / "release_parity.json").read_text())
    assert len(results) == 3
    for name, result in results.items():
        assert result["strict_and_identical"], name
        assert result["float32"] < 1e-4, name
        assert result["bfloat16"] < 0.1, name
