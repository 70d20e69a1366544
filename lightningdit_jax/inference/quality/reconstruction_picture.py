"""Originals above reconstructions: a few images spread over a set, whichever process has them."""

import numpy as np

from lightningdit_jax.inference.pictures import image_grid
from lightningdit_jax.parallel.multihost import gather_numpy


class ReconstructionPicture:
    """`columns` of the first `total` images, evenly spaced: class folders come one after another.

    resolution: side of the images.
    """

    def __init__(self, total: int, resolution: int, columns: int = 10):
        columns = min(columns, total)
        self._shown = np.arange(columns) * total // columns
        self._there = np.zeros(columns, bool)
        self._pairs = np.zeros((2, columns, resolution, resolution, 3), np.uint8)

    def add(self, indices: np.ndarray, images: np.ndarray, rebuilt: np.ndarray) -> None:
        """Keeps what is shown of a batch: indices [b], images and rebuilt uint8 [b, R, R, 3]."""
        _, columns, rows = np.intersect1d(self._shown, indices, return_indices=True)
        self._there[columns] = True
        self._pairs[0, columns], self._pairs[1, columns] = images[rows], rebuilt[rows]

    def grid(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3], of the images that could be read. All must call it."""
        there = gather_numpy(self._there).any(0)
        # A column is of one process, and black in the others. One at a time: there may be many.
        columns = [gather_numpy(self._pairs[:, i]).max(0) for i in np.flatnonzero(there)]
        originals, rebuilt = np.stack(columns, axis=1)
        return image_grid(np.concatenate([originals, rebuilt]), len(columns))
