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
        self._name, self._params, self._mesh = name, loaded.params, mesh
        self._loaded = loaded
        self._local_size = batch_size // jax.process_count()
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
        parts = list(self._local_features(images, total, verb))
        longest = -(-total // jax.process_count())
        return {
            name: gathered_rows(np.concatenate([part[name] for part in parts]), longest)
            for name in parts[0]
        }

    def moments(
        self, images: OrderedImages, total: int, names: Sequence[str], verb: str = ""
    ) -> dict[str, Moments]:
        """Moments of features by name, of the first `total` images, the same in every process.

        Features are not kept, so the number of images has no limit.
        """
        streams: dict[str, MomentsStream] = {}
        for part in self._local_features(images, total, verb):
            for name in names:
                stream = streams.setdefault(name, MomentsStream(part[name].shape[1]))
                stream.add(part[name])
        return {name: gathered_moments(stream.moments()) for name, stream in streams.items()}

    def _local_features(self, images: OrderedImages, total: int, verb: str) -> Iterator[Features]:
        """Features of this process's images, a batch at a time; as many batches in each process.

        Raises FloatingPointError naming images whose features are not finite.
        """
        start, stop = process_range(total)
        longest = -(-total // jax.process_count())
        progress = Progress(verb, stop - start, quiet=not (verb and is_main_process()))
        progress.compiling()
        first = start

        def started() -> Iterator[tuple[dict[str, jax.Array], int]]:
            batches = images.batches(self._local_size, start, stop)
            for _ in range(-(-longest // self._local_size)):
                batch = next(batches, np.zeros((0, *images.shape[1:]), np.uint8))
                padded = np.zeros((self._local_size, *images.shape[1:]), np.uint8)
                padded[: len(batch)] = batch
                there = global_batch({"images": padded}, self._mesh)
                yield self._run(self._params, there["images"]), len(batch)

        def finish(work: tuple[dict[str, jax.Array], int]) -> Features:
            nonlocal first
            output, count = work
            features = {name: local_rows(array, count) for name, array in output.items()}
            rows = [np.isfinite(x).all(axis=1) for x in features.values()]
            finite = np.logical_and.reduce(rows)
            names = [f"image {first + row}" for row in range(count)]
            weights = {self._name: self._params}
            check_finite(finite, names, "the features", weights, "look at the checkpoint")
            first += count
            return features

        for number, features in enumerate(run_ahead(started(), finish), 1):
            progress.update(min(number * self._local_size, stop - start))
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
