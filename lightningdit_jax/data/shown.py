"""Latents with what a vision model makes of their images, or with the images themselves."""

import numpy as np

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.pipeline import Batch, LatentBatches


class ShownLatents(LatentBatches):
    """LatentBatches and, by `name`, features [b, D, h, w] as stored, or images [b, R, R, 3] uint8.

    Both are row for row those of the latents, and of the mirror image where that is asked for.
    """

    def __init__(self, latents: LatentBatches, name: str, shown: LatentShards | ImageBatches):
        super().__init__(latents.shards, latents.scaling)
        self._name, self._shown = name, shown

    def read_batch(
        self, indices: np.ndarray, flip: np.ndarray, crop: np.ndarray | None = None
    ) -> Batch:
        """See BatchSource."""
        batch = super().read_batch(indices, flip)
        if isinstance(self._shown, LatentShards):
            return batch | {self._name: self._shown.read_stored(indices, flip)}
        return batch | {self._name: self._shown.read_batch(indices, flip)["images"]}

    def find_unfit(self, indices: np.ndarray, flip: np.ndarray) -> list[str]:
        """See BatchSource."""
        found = super().find_unfit(indices, flip)
        if isinstance(self._shown, LatentShards):
            stored = self._shown.read_stored(indices, flip)
            for row in np.flatnonzero(~np.isfinite(stored).all((1, 2, 3))):
                index = int(indices[row])
                where = self._shown.locate(index, flip[row])
                found.append(f"features of record {index} ({where}): not all are finite")
        return found
