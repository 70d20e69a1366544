"""Weights of the Inception network drawn with numpy, for the network is too large to keep."""

import zlib

import numpy as np


def draw_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict of sane activations. Each tensor depends on its own name and shape alone."""
    return {key: _draw(key, shape) for key, shape in shapes.items()}


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    values = rng.standard_normal(shape, np.float32)
    if key.endswith("running_var"):
        return 0.5 + np.abs(values)
    if len(shape) > 1:
        return values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return np.float32(0.1) * values + np.float32(key.endswith("bn.weight"))


def draw_images() -> np.ndarray:
    """uint8 [2, 40, 48, 3]."""
    return np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
