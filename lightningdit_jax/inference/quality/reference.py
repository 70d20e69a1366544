"""Reference files: written of images of one's own as ADM's evaluator reads them, and opened."""

import types
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.npz_images import NpzImages, write_npz_images
from lightningdit_jax.data.pipeline import sequential_batches
from lightningdit_jax.errors import difference
from lightningdit_jax.evaluation.frechet import Gaussian
from lightningdit_jax.evaluation.reference_moments import (
    Extractor,
    NetworkMoments,
    ReferenceMoments,
    moments_from_npz,
    network_moments_from_npz,
)
from lightningdit_jax.inference.quality.features import (
    FeatureNetwork,
    Networks,
    OrderedImages,
    moments_of,
)
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.networks import NETWORKS, POOL, network_of
from lightningdit_jax.parallel.multihost import is_main_process, print_once

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


def check_networks(inception: str, networks: Sequence[str]) -> None:
    """Raises ValueError where statistics in the features of these checkpoints make no sense."""
    if not (inception or networks):
        raise ValueError("--inception and --networks are empty; expected a checkpoint or more")
    for path in networks:
        name = network_of(path)
        if name == "inception":
            raise ValueError(
                f"--networks has {path}, an Inception network; give it as --inception={path}, "
                "which writes what FID, sFID and fd_inception are taken from"
            )
        if NETWORKS[name].is_of_cmmd:
            raise ValueError(
                f"--networks has {path}, a network of CMMD, which compares with the images in the "
                "file and needs no statistics; leave it out"
            )


def write_reference(
    images: ReferenceImages,
    output: str,
    inception: InceptionNetwork | None,
    networks: Networks = types.MappingProxyType({}),
    *,
    num_kept: int = 10_000,
    seed: int = 0,
) -> int:
    """Writes moments of all images by network, and `arr_0`, num_kept of the images.

    Of Inception `mu`, `sigma`, `mu_s`, `sigma_s` and `extractor`, the keys of ADM's reference
    files; of each of `networks`, which open_networks opened, `NAME_mu`, `NAME_sigma` and
    `NAME_extractor`. Images are read once for all of them. `arr_0`, drawn at random, is what
    precision and recall, and all but Fréchet distances, compare with. An extractor names the
    network, so that features of another are not compared with these. Returns the number of images
    that the moments are of: without those that cannot be read where the source skips them. All
    processes must call it; the main one writes. Raises ValueError for fewer than two images.
    """
    adm = {} if inception is None else {"inception": inception}
    names = {**dict.fromkeys(networks, (POOL,)), **dict.fromkeys(adm, (POOL, "spatial"))}
    moments = moments_of(
        {**networks, **adm}, images, images.shape[0], names, "reference images seen"
    )
    arrays: dict[str, np.ndarray] = {}
    for name, network in networks.items():
        features = moments[name][POOL].gaussian
        arrays |= NetworkMoments(features, network.identity).to_arrays(name)
    for name, network in adm.items():
        pool, spatial = (moments[name][feature].gaussian for feature in names[name])
        arrays |= ReferenceMoments(pool, spatial, network.identity).to_arrays()
    seen = next(iter(moments.values()))[POOL].count
    if is_main_process():
        count = min(num_kept, seen)
        kept = images.drawn(count, seed)
        write_npz_images(output, kept, (count, *images.shape[1:]), arrays)
    return seen


def open_reference(path: str, network: FeatureNetwork) -> ReferenceMoments:
    """Inception's moments of a reference file, once it is sure that they are this network's.

    ADM's files do not say what made them. They are of the graph of 2015, which the released
    Inception weights are a port of, so they are accepted with a word of it.
    Raises ValueError for a file that another network made, and as moments_from_npz.
    """
    reference = moments_from_npz(path)
    if reference.extractor is None:
        print_once(f"{path} does not name its network; taken for the 2015 graph of ADM's evaluator")
    else:
        _check(path, "network", reference.extractor, network, "config.evaluate.inception")
    return reference


def open_network_reference(path: str, name: str, network: FeatureNetwork) -> Gaussian:
    """Another network's moments of a reference file; what is raised: as open_reference.

    Those of "inception" are ADM's `mu` and `sigma`.
    """
    if name == "inception":
        return open_reference(path, network).pool
    found = network_moments_from_npz(path, name)
    _check(path, f"{name} network", found.extractor, network, "config.evaluate.networks")
    return found.features


def _check(path: str, what: str, extractor: Extractor, network: FeatureNetwork, key: str) -> None:
    if extractor != network.identity:
        wording = "{} in the file and {} here"
        differing = difference(extractor, network.identity, wording)
        raise ValueError(
            f"{path} was made with another {what}: {differing}. Give {key} the checkpoint it was "
            "made with, or make it again with scripts/reference_statistics.py"
        )
