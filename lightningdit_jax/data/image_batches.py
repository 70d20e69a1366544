"""Images as records of the pipeline: decoded, cropped, and what becomes of damaged ones."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from absl import logging

from lightningdit_jax.data.images import (
    ImageSource,
    UnreadableImageError,
    center_crop_adm,
    resize_and_crop,
)
from lightningdit_jax.data.pipeline import Batch


class ImageBatches:
    """Images, cropped: {"images": [b, R, R, 3] uint8, "labels": [b] int32}.

    They stay uint8 until they are on the device, a quarter of the transfer. "center_crop" is ADM's
    for every batch; "random_crop" is the release's VA-VAE training, where a crop is drawn, and
    ADM's elsewhere. Decodes with `num_threads` threads.

    corrupt: what becomes of images that cannot be decoded. "stop" raises. "skip" warns once of
    each and, in training, puts another image of the batch in its place; elsewhere it leaves the row
    out and adds `rows` int64, the places in `indices` of those that are there.
    Raises ValueError for another `augment`.
    """

    draws_crops = True

    def __init__(
        self,
        source: ImageSource,
        resolution: int,
        augment: Literal["random_crop", "center_crop"],
        num_threads: int,
        corrupt: Literal["stop", "skip"] = "stop",
    ):
        if augment not in ("random_crop", "center_crop"):
            raise ValueError(f"augment is {augment!r}; expected 'random_crop' or 'center_crop'")
        self.source, self._resolution, self._augment = source, resolution, augment
        self._num_threads, self._corrupt = num_threads, corrupt
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_pool"}

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._num_threads, thread_name_prefix="decode")

    def check_first(self) -> None:
        """Raises UnreadableImageError where the first image stops a job, or none can be decoded."""
        first = None
        for index in range(len(self.source)):
            try:
                self.source.image(index)
                return
            except UnreadableImageError as error:
                self._stop_if_asked(error)
                first = first or error
        raise UnreadableImageError(f"no image of {len(self.source):,} can be decoded: {first}")

    def read_batch(
        self, indices: np.ndarray, flip: np.ndarray, crop: np.ndarray | None = None
    ) -> Batch:
        """See BatchSource."""
        crops = crop if crop is not None and self._augment == "random_crop" else [None] * len(flip)
        images = np.empty((len(indices), self._resolution, self._resolution, 3), np.uint8)
        labels = np.empty(len(indices), np.int32)

        def fill(row: int) -> bool:
            """Whether the image could be read."""
            index = int(indices[row])
            try:
                image = self.source.image(index)
            except UnreadableImageError as error:
                self._stop_if_asked(error)
                self._warn(index, error)
                return False
            if (crop := crops[row]) is None:
                pixels = center_crop_adm(image, self._resolution)
            else:
                pixels = resize_and_crop(image, self._resolution, *crop)
            images[row] = pixels[:, ::-1] if flip[row] else pixels
            labels[row] = self.source.label(index)
            return True

        read = np.array(list(self._pool.map(fill, range(len(indices)))), bool)
        rows = np.flatnonzero(read)
        if crop is None and self._corrupt == "skip":
            return {"images": images[rows], "labels": labels[rows], "rows": rows}
        if not read.all():
            if len(rows) == 0:
                raise UnreadableImageError(
                    f"none of the {len(read)} images of a batch can be decoded; check the data"
                )
            stand_ins = rows[np.arange(len(read) - len(rows)) % len(rows)]
            images[~read], labels[~read] = images[stand_ins], labels[stand_ins]
        return {"images": images, "labels": labels}

    def find_unfit(self, indices: np.ndarray, flip: np.ndarray) -> list[str]:
        """See BatchSource. None: pixels are uint8."""
        return []

    def _stop_if_asked(self, error: UnreadableImageError) -> None:
        if self._corrupt == "stop":
            raise UnreadableImageError(
                f"{error}. Replace or remove it, or go on without it: --config.data.corrupt=skip"
            ) from error

    def _warn(self, index: int, error: UnreadableImageError) -> None:
        if index not in self._unreadable:
            self._unreadable.add(index)
            logging.warning("%s; skipped, %d so far", error, len(self._unreadable))
