"""Handwritten digits that ship inside scikit-learn: real images without a download."""

import numpy as np
from PIL import Image

_TEST_SHARE = 5  # every fifth image of a class is held out


class Digits:
    """1,797 handwritten digits of 8x8 pixels (Alpaydin & Kaynak 1998), upscaled, an ImageSource.

    split: "train" and "test" (a fifth of each class, the same in every run), or "all".
    size: side of the images; 8x8 values 0..16 become 0..255 and are upscaled bicubically.
    `labels` int64 [N]; `pixels` uint8 [N, size, size], the gray images.
    Raises ValueError for an unknown split or a size that is no multiple of 8, ImportError without
    scikit-learn.
    """

    class_names = tuple("0123456789")
    num_classes = 10
    notes = ()

    def __init__(self, split: str = "train", size: int = 32):
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "the digits come with scikit-learn: pip install -e '.[digits]'"
            ) from error
        if split not in ("train", "test", "all"):
            raise ValueError(f"split of digits is '{split}'; expected 'train', 'test' or 'all'")
        if size < 8 or size % 8:
            raise ValueError(f"size of digits is {size}; expected a multiple of 8")
        data = load_digits()
        kept = np.flatnonzero(_in_split(data.target, split))
        self.labels = data.target[kept].astype(np.int64)
        small = np.round(data.images[kept] * (255 / 16)).astype(np.uint8)
        self.pixels = np.stack([_upscale(image, size) for image in small])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"digit {index}"


def digits_to_8x8(images: np.ndarray) -> np.ndarray:
    """Undoes the upscaling: uint8 [B, R, R, 3] -> float32 [B, 64] in 0..16, as scikit-learn has it.

    Gray value and area average. R is a multiple of 8.
    """
    batch, side = images.shape[:2]
    blocks = images.reshape(batch, 8, side // 8, 8, side // 8, 3)
    return (blocks.mean((2, 4, 5)) * (16 / 255)).reshape(batch, 64).astype(np.float32)


def _in_split(labels: np.ndarray, split: str) -> np.ndarray:
    """bool [N]. Stratified; RandomState's stream is frozen, so the split never changes."""
    test = np.zeros(len(labels), bool)
    random = np.random.RandomState(0)
    for digit in range(10):
        of_class = random.permutation(np.flatnonzero(labels == digit))
        test[of_class[: len(of_class) // _TEST_SHARE]] = True
    return {"train": ~test, "test": test, "all": np.ones_like(test)}[split]


def _upscale(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
