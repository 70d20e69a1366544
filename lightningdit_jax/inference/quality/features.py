"""Any network's features of images, on a mesh: of a file, a folder or memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.evaluation.frechet import Moments, MomentsStream
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import local_rows, process_range
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.mesh import check_batch_size
from lightningdit_jax.parallel.multihost import gather_numpy, global_batch, is_main_process
from lightningdit_jax.parallel.run_ahead import run_ahead
from lightningdit_jax.progress import Progress

Features = dict[str, np.ndarray]


class OrderedImages(Protocol):
    """Images that are read in order. shape: [N, H, W, 3]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """uint8 images start ... stop - 1; the last batch, or one with damaged images, is short."""
        ...


class ImagesInMemory:
    """An array uint8 [N, H, W, 3] as OrderedImages."""

    def __init__(self, images: np.ndarray):
        self._images, self.shape = images, images.shape

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """See OrderedImages."""
        for first in range(start, stop, batch_size):
            yield self._images[first : min(first + batch_size, stop)]


class FeatureNetwork:
    """A network that is asked for features of images, row by row.

    name: of the network, for people. path: a converted checkpoint of this kind.
    run(module, images uint8 [b, H, W, 3]) -> {name of a feature: [b, D]}, traced once. identity:
    what else than the weights decides the features; what is measured keeps it, and with it their
    fingerprint. batch_size is global. All processes share the work and have to call the methods
    alike. Raises ValueError or FileNotFoundError for a checkpoint of another kind or none, and for
    a batch that the mesh cannot share equally.
    """

    def __init__(
        self,
        name: str,
        path: str,
        kind: str,
        run: Callable[[Any, jax.Array], dict[str, jax.Array]],
        *,
        identity: Mapping[str, str],
        batch_size: int,
        mesh: Mesh,
    ):
        check_batch_size(batch_size, mesh, jax.process_count())
        loaded = load_functional(path, mesh, expect=kind)
        self._name, self._params, self.mesh = name, loaded.params, mesh
        self._loaded = loaded
        self.local_size = batch_size // jax.process_count()
        self.identity = {**identity, "weights": loaded.fingerprint}
        self._run = jit_batches(
            lambda params, images: run(nnx.merge(loaded.graphdef, params), images), mesh
        )

    @property
    def architecture(self) -> Any:
        """The config of its module."""
        return self._loaded.config

    def features(self, images: OrderedImages, total: int, verb: str = "") -> Features:
        """Features of the first `total` images in order, the same in every process. [N, ...].

        verb: says that progress is printed, and how.
        """
        return features_of({self._name: self}, images, total, verb)[self._name]

    def moments(
        self, images: OrderedImages, total: int, names: Sequence[str], verb: str = ""
    ) -> dict[str, Moments]:
        """Moments of features by name, of the first `total` images, the same in every process.

        Features are not kept, so the number of images has no limit.
        """
        return moments_of({self._name: self}, images, total, {self._name: names}, verb)[self._name]

    def start(self, images: jax.Array) -> dict[str, jax.Array]:
        """Has the devices begin with a batch over the mesh, uint8 [b, H, W, 3]."""
        return self._run(self._params, images)

    def finish(self, output: dict[str, jax.Array], count: int, first: int) -> Features:
        """Features of the first `count` images that were started, which have numbers from `first`.

        Raises FloatingPointError naming images whose features are not finite.
        """
        features = {name: local_rows(array, count) for name, array in output.items()}
        rows = [np.isfinite(x).all(axis=1) for x in features.values()]
        names = [f"image {first + row}" for row in range(count)]
        weights = {self._name: self._params}
        finite = np.logical_and.reduce(rows)
        check_finite(finite, names, "the features", weights, "look at the checkpoint")
        return features


Networks = Mapping[str, FeatureNetwork]  # of one mesh and one batch size, by name


def features_of(
    networks: Networks, images: OrderedImages, total: int, verb: str = ""
) -> dict[str, Features]:
    """What each network finds, as FeatureNetwork.features; images are read once."""
    parts = list(_local_features(networks, images, total, verb))
    longest = -(-total // jax.process_count())
    return {
        network: {
            name: gathered_rows(np.concatenate([part[network][name] for part in parts]), longest)
            for name in parts[0][network]
        }
        for network in networks
    }


def moments_of(
    networks: Networks,
    images: OrderedImages,
    total: int,
    names: Mapping[str, Sequence[str]],
    verb: str = "",
) -> dict[str, dict[str, Moments]]:
    """Of each network the moments of some of its features, names[network]; images are read once.

    As FeatureNetwork.moments.
    """
    streams: dict[tuple[str, str], MomentsStream] = {}
    for part in _local_features(networks, images, total, verb):
        for network in networks:
            for name in names[network]:
                rows = part[network][name]
                stream = streams.setdefault((network, name), MomentsStream(rows.shape[1]))
                stream.add(rows)
    return {
        network: {name: gathered_moments(streams[network, name].moments()) for name in of_network}
        for network, of_network in names.items()
    }


def _local_features(
    networks: Networks, images: OrderedImages, total: int, verb: str
) -> Iterator[dict[str, Features]]:
    """Features of this process's images, a batch at a time; as many batches in each process.

    Raises FloatingPointError as FeatureNetwork.finish.
    """
    any_of_them = next(iter(networks.values()))
    local_size, mesh = any_of_them.local_size, any_of_them.mesh
    start, stop = process_range(total)
    longest = -(-total // jax.process_count())
    progress = Progress(verb, stop - start, quiet=not (verb and is_main_process()))
    progress.compiling()
    first = start

    def started() -> Iterator[tuple[dict[str, dict[str, jax.Array]], int]]:
        batches = images.batches(local_size, start, stop)
        for _ in range(-(-longest // local_size)):
            batch = next(batches, np.zeros((0, *images.shape[1:]), np.uint8))
            padded = np.zeros((local_size, *images.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            there = global_batch({"images": padded}, mesh)["images"]
            yield {name: network.start(there) for name, network in networks.items()}, len(batch)

    def finish(work: tuple[dict[str, dict[str, jax.Array]], int]) -> dict[str, Features]:
        nonlocal first
        outputs, count = work
        features = {
            name: network.finish(outputs[name], count, first) for name, network in networks.items()
        }
        first += count
        return features

    for number, features in enumerate(run_ahead(started(), finish), 1):
        progress.update(min(number * local_size, stop - start))
        yield features


def gathered_moments(moments: Moments) -> Moments:
    """Of the features of all processes, in their order."""
    parts = (
        gather_numpy(np.asarray(part, np.float64))
        for part in (moments.count, moments.mean, moments.scatter)
    )
    whole = Moments.empty(len(moments.mean))
    for count, mean, scatter in zip(*parts):
        whole = whole.merge(Moments(int(count), mean, scatter))
    return whole


def gathered_rows(rows: np.ndarray, longest: int) -> np.ndarray:
    """Rows of all processes in order; a process has `longest` rows or fewer."""
    if jax.process_count() == 1:
        return rows
    padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    counts = gather_numpy(np.array(len(rows)))
    return np.concatenate([p[:n] for p, n in zip(gather_numpy(padded), counts)])
