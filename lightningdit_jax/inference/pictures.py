"""Grids of images as PNG files."""

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from lightningdit_jax.atomic_file import replacing

_LINE = 12  # pixels of a line below a picture


def image_grid(
    images: np.ndarray, columns: int, *, gap: int = 2, captions: Sequence[str] = ()
) -> np.ndarray:
    """Tiles images row by row on white. [N, H, W, 3] uint8 -> [rows (H + gap) + gap, ..., 3].

    Images below 64 pixels are enlarged by repeating pixels, so that a person can see them.
    captions: a line for below each, cut to its width; each row is 12 pixels higher by them.
    """
    grid = _tiled(images, columns, gap, _LINE if captions else 0)
    if not captions:
        return grid
    side = images.shape[1] * enlargement(images.shape[1])
    width = images.shape[2] * enlargement(images.shape[1])
    canvas = Image.fromarray(grid)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for i, caption in enumerate(captions[: len(images)]):
        x = i % columns * (width + gap) + gap
        y = i // columns * (side + _LINE + gap) + gap + side
        draw.text((x, y), _fitting(caption, width, font), fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def _fitting(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text as far as the width goes, in ASCII, which is all that Pillow's own font has."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = "".join(letters).encode("ascii", "replace").decode()
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _tiled(images: np.ndarray, columns: int, gap: int, below: int) -> np.ndarray:
    images = images.repeat(enlargement(images.shape[1]), 1).repeat(enlargement(images.shape[1]), 2)
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    grid = np.full(
        (rows * (height + below + gap) + gap, columns * (width + gap) + gap, channels),
        255,
        np.uint8,
    )
    for i, image in enumerate(images):
        y = i // columns * (height + below + gap) + gap
        x = i % columns * (width + gap) + gap
        grid[y : y + height, x : x + width] = image
    return grid


def enlargement(height: int) -> int:
    """How often each pixel of a small image is repeated in a grid."""
    return max(1, 64 // height)


def save_png(
    path: epath.PathLike, image: np.ndarray, texts: Mapping[str, str] | None = None
) -> None:
    """Writes an image [H, W, 3] uint8; the file appears when complete. texts: its text chunks."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    with replacing(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(image).save(file, format="PNG", pnginfo=info)
