"""The images of benchmarks/tokenizer_study.py, and the features its Fréchet distances are of."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.inference.quality.digits import digits_judge

CROP, TILE, STRIDE = 32, 64, 16  # pixels
HELD_OUT = 5  # every fifth tile


@dataclasses.dataclass(frozen=True)
class Pictures:
    """train and test: images of two splits. features: uint8 [N, S, S, 3] -> [N, D]. prefix: of the
    names of distances in them."""

    train: ImageSource
    test: ImageSource
    features: Callable[[np.ndarray], np.ndarray]
    prefix: str


def digits(size: int) -> Pictures:
    """scikit-learn's digits, whose features are the margins of the classifier that judges them."""
    return Pictures(
        Digits("train", size),
        Digits("test", size),
        lambda images: digits_judge().features(digits_to_8x8(images)),
        "digits_",
    )


def photographs() -> Pictures:
    """Crops of the photographs that scikit-learn and matplotlib bring along."""
    return Pictures(Crops(held_out=False), Crops(held_out=True), crop_features, "crops_")


class Crops:
    """Crops of 32x32 pixels of three photographs, whole and at half their size, an ImageSource.

    A class is a photograph. Each is cut into tiles of 64x64, and crops lie within a tile, 16 pixels
    apart, so that those of held-out tiles share no pixel with others.
    """

    class_names = ("china", "flower", "grace_hopper")
    num_classes = 3
    notes = ()

    def __init__(self, *, held_out: bool):
        crops: list[np.ndarray] = []
        labels: list[int] = []
        for label, photograph in enumerate(_photographs()):
            for divisor in (1, 2):
                tiles = _tiles(photograph.reduce(divisor))
                for tile in tiles[::HELD_OUT] if held_out else _others(tiles):
                    cut = _crops(tile)
                    crops += cut
                    labels += [label] * len(cut)
        self._crops, self.labels = np.stack(crops), np.array(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._crops[index])

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"crop {index}"


def crop_features(images: np.ndarray) -> np.ndarray:
    """Colors and textures of crops, without any learning. uint8 [N, 32, 32, 3] -> float64 [N, 60].

    Means of 8x8 blocks in each color, 48 numbers in 0 to 1; then of brightness, in each quarter and
    at three scales, the logarithm of the mean squared difference of neighboring pixels.
    """
    x = images.astype(np.float64) / 255
    blocks = x.reshape(len(x), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(x), -1)
    gray, bands = x.mean(-1), []
    for _ in range(3):
        side = gray.shape[1]
        down, right = np.diff(gray, axis=1)[:, :, :-1], np.diff(gray, axis=2)[:, :-1]
        energy = np.pad(np.square(down) + np.square(right), ((0, 0), (0, 1), (0, 1)), "edge")
        half = side // 2
        quarters = energy.reshape(len(x), 2, half, 2, half).mean((2, 4))
        bands.append(np.log10(quarters + 1e-4).reshape(len(x), -1))
        gray = gray.reshape(len(x), half, 2, half, 2).mean((2, 4))
    return np.concatenate([blocks, *bands], axis=1)


def _photographs() -> list[Image.Image]:
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    with get_sample_data("grace_hopper.jpg") as file:
        hopper = Image.open(file).convert("RGB")
    return [*map(Image.fromarray, load_sample_images().images), hopper]


def _tiles(photograph: Image.Image) -> list[np.ndarray]:
    pixels = np.asarray(photograph)
    return [
        pixels[row : row + TILE, column : column + TILE]
        for row in range(0, pixels.shape[0] - TILE + 1, TILE)
        for column in range(0, pixels.shape[1] - TILE + 1, TILE)
    ]


def _others(tiles: list[np.ndarray]) -> list[np.ndarray]:
    return [tile for number, tile in enumerate(tiles) if number % HELD_OUT]


def _crops(tile: np.ndarray) -> list[np.ndarray]:
    starts = range(0, TILE - CROP + 1, STRIDE)
    return [tile[r : r + CROP, c : c + CROP] for r in starts for c in starts]
