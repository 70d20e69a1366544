"""Grids of images as PNG files."""

import numpy as np
from etils import epath
from PIL import Image

from lightningdit_jax.atomic_file import replacing


def image_grid(images: np.ndarray, columns: int, *, gap: int = 2) -> np.ndarray:
    """Tiles images row by row on white. [N, H, W, 3] uint8 -> [rows (H + gap) + gap, ..., 3].

    Images below 64 pixels are enlarged by repeating pixels, so that a person can see them.
    """
    images = images.repeat(enlargement(images.shape[1]), 1).repeat(enlargement(images.shape[1]), 2)
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    grid = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8
    )
    for i, image in enumerate(images):
        y = i // columns * (height + gap) + gap
        x = i % columns * (width + gap) + gap
        grid[y : y + height, x : x + width] = image
    return grid


def enlargement(height: int) -> int:
    """How often each pixel of a small image is repeated in a grid."""
    return max(1, 64 // height)


def save_png(path: str | epath.Path, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8; the file appears when complete."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(image).save(file, format="PNG")
