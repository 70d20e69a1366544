"""Reads the golden cases: outputs of the PyTorch release, see testdata/golden/README.md."""

import functools
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

GOLDEN = pathlib.Path(__file__).parent / "testdata" / "golden"


@functools.cache
def index() -> dict[str, dict]:
    """Case name -> its entry in index.json (config, tolerance, notes)."""
    cases = json.loads((GOLDEN / "index.json").read_text())["cases"]
    return {case["case"]: case for case in cases}


def load(name: str) -> dict[str, np.ndarray]:
    """Tensors of a case: `in.*`, `out.*`, `mid.*`, `aux.*`, in the release's own layout (NCHW)."""
    return load_file(GOLDEN / f"{name}.safetensors")


def load_weights(name: str) -> dict[str, np.ndarray]:
    """The PyTorch state dict that a case runs with."""
    weights = index()[name]["weights"]
    return load_file(GOLDEN / weights)


def to_nhwc(x: np.ndarray) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(x, -3, -1)


def to_nchw(x: np.ndarray) -> np.ndarray:
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(x), -1, -3)


def assert_close(got, want, tolerance: dict) -> None:
    """|got - want| <= atol + rtol |want|, and at most 1e-4 of the largest |want|."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    np.testing.assert_allclose(got, want, atol=tolerance["atol"], rtol=tolerance["rtol"])
    scale = np.abs(want).max()
    assert np.abs(got - want).max() <= 1e-4 * scale
