"""A reference file, as ADM's evaluator reads it, of images of one's own."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lightningdit_jax.data.npz_images import NpzImages, write_npz_images
from lightningdit_jax.data.pipeline import ImageBatches, sequential_batches
from lightningdit_jax.evaluation.frechet import ReferenceMoments
from lightningdit_jax.inference.quality.features import OrderedImages
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.parallel.multihost import is_main_process

_BATCH = 256  # images read at once when some are kept


class ReferenceImages(OrderedImages, Protocol):
    """Images of which some can be kept."""

    def drawn(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Batches of `count` different images drawn at random. As many must be readable."""
        ...


class CroppedImages:
    """Images of a folder, TFDS or the digits, center-cropped, as ReferenceImages.

    num_workers: processes that decode, or 0 for threads of this one.
    """

    def __init__(self, source: ImageBatches, size: int, num_workers: int = 0):
        self._source, self._num_workers = source, num_workers
        self.shape = (len(source), size, size, 3)

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """See OrderedImages."""
        ranges = [(start, stop)]
        for _, batch in sequential_batches(self._source, batch_size, ranges, self._num_workers):
            yield batch["images"]

    def drawn(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """See ReferenceImages."""
        order = np.random.default_rng(seed).permutation(len(self._source))
        for first in range(0, len(order), _BATCH):
            indices = order[first : first + _BATCH]
            images = self._source.read_batch(indices, np.zeros(len(indices), bool))["images"]
            images = images[:count]
            count -= len(images)
            yield images
            if count == 0:
                return


class StoredImages:
    """`arr_0` of an .npz file as ReferenceImages."""

    def __init__(self, file: NpzImages):
        self._file, self.shape = file, file.shape

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """See OrderedImages."""
        return self._file.batches(batch_size, start, stop)

    def drawn(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """See ReferenceImages. In the order of the file, which is read once."""
        total = self.shape[0]
        kept = np.zeros(total, bool)
        kept[np.random.default_rng(seed).permutation(total)[:count]] = True
        for number, images in enumerate(self._file.batches(_BATCH, 0, total)):
            yield images[kept[number * _BATCH :][: len(images)]]


def write_reference(
    images: ReferenceImages,
    output: str,
    network: InceptionNetwork,
    *,
    num_kept: int = 10_000,
    seed: int = 0,
) -> int:
    """Writes `mu`, `sigma`, `mu_s`, `sigma_s` of all images and `arr_0`, num_kept of them.

    The keys of ADM's reference files; `arr_0`, drawn at random, is what precision and recall
    compare with. `extractor` names the network, so that features of another are not compared with
    these. Returns the number of images that the moments are of: without those that cannot be read
    where the source skips them. All processes must call it; the main one writes.
    Raises ValueError for fewer than two images.
    """
    names = ("pool", "spatial")
    moments = network.moments(images, images.shape[0], names, "reference images seen")
    pool, spatial = moments["pool"], moments["spatial"]
    reference = ReferenceMoments(pool.gaussian, spatial.gaussian, network.identity)
    if is_main_process():
        count = min(num_kept, pool.count)
        kept = images.drawn(count, seed)
        write_npz_images(output, kept, (count, *images.shape[1:]), reference.to_arrays())
    return pool.count
