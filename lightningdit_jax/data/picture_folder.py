"""A folder of pictures of one size, read in order, as another program may have sampled them."""

import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from lightningdit_jax.data.image_listing import FORMATS, ImageListing
from lightningdit_jax.data.images import decode_rgb


class PictureFolder:
    """The images directly in a folder, uint8 [N, H, W, 3], by name; nothing is resized or cropped.

    `notes` say what was left out. Raises ValueError for a folder without images, for one whose
    images lie in folders of their own, and for images that cannot be decoded or differ in size.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        listing = ImageListing(pathlib.Path(self.path))
        self._files, self.notes = listing.loose, listing.left_out()
        if not self._files:
            within = f"; it holds folders ({len(listing.classes):,})" if listing.classes else ""
            raise ValueError(
                f"{self.path} holds no images ({' '.join(FORMATS)}){within}; expected samples as "
                "pictures of one size, directly in it, or an .npz file"
            )
        first = decode_rgb(self._files[0], self._files[0])
        self.shape: tuple[int, ...] = (len(self._files), first.height, first.width, 3)

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images start ... stop - 1 in order; the last batch may be short."""
        with ThreadPoolExecutor() as threads:
            for first in range(start, stop, batch_size):
                files = self._files[first : min(first + batch_size, stop)]
                yield np.stack(list(threads.map(self._pixels, files)))

    def _pixels(self, file: str) -> np.ndarray:
        pixels = np.asarray(decode_rgb(file, file))
        if pixels.shape != self.shape[1:]:
            found, wanted = (f"{w}x{h}" for h, w, _ in (pixels.shape, self.shape[1:]))
            raise ValueError(
                f"{file} is {found} pixels, but {self._files[0]} is {wanted}; samples are of one "
                "size, and none is resized here"
            )
        return pixels
