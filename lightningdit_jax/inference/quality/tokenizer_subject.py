"""A tokenizer and images as the measures of tokenizers see them: encoded once, decoded at will."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.evaluation.frechet import Moments
from lightningdit_jax.evaluation.perturbation import moved
from lightningdit_jax.inference.finite import check_finite, rows_are_finite
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality.features import gathered_moments, gathered_rows
from lightningdit_jax.inference.quality.tokenizer_networks import Judges
from lightningdit_jax.inference.reconstruct import posterior_sample
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.pixels import to_model_range, to_uint8
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.multihost import gather_numpy, global_batch

_NOISE = 2  # of the draws of (seed, index) the third, after an image and its mirror image


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Among which latents the neighbors of an image's are sought.

    count: of so many nearest one is drawn. read(indices) -> latents [b, h, w, d] as encoded, of
    `total` stored ones; None: the other images' own.
    """

    count: int
    read: Callable[[np.ndarray], np.ndarray] | None = None
    total: int = 0


class Batch(NamedTuple):
    """Some of this process's rows: which, and what people call them. Others take part with none."""

    rows: slice
    names: list[str]


class Subject:
    """Posterior samples of images, and all that decodes, compares and gathers them.

    images: uint8 [n, H, W, 3], and labels int [n], of this process; all have to make and use it
    alike. latents: [n, h, w, d] float32 as encoded; indices: [n], in those of all. all_latents
    [N, h, w, d] and labels [N] are of all processes. Noise, as the posterior samples, is a function
    of (seed, index). Raises FloatingPointError for latents that are not finite, ValueError for a
    channel that does not vary.
    """

    def __init__(
        self,
        tokenizer: Loaded,
        images: np.ndarray,
        labels: np.ndarray,
        networks: Judges,
        neighbors: Neighbors,
        mesh: Mesh,
        batch_size: int,
        seed: int,
    ):
        counts = gather_numpy(np.array(len(images)))
        self._first, self._longest = int(counts[: jax.process_index()].sum()), int(counts.max())
        self._params, self._mesh, self._size = tokenizer.params, mesh, batch_size
        self.images, self.networks, self.neighbors, self.seed = images, networks, neighbors, seed
        self.labels = gathered_rows(np.asarray(labels), self._longest)
        self.indices = self._first + np.arange(len(images), dtype=np.int32)
        encode, self._decode = _programs(tokenizer.graphdef, seed, mesh)
        parts = []
        for batch, arrays in self.batches(images=images, indices=self.indices):
            latents, finite = encode(self._params, arrays["images"], arrays["indices"])
            self._check(finite, batch, "the latents")
            parts.append(local_rows(latents, len(batch.names)))
        self.latents = np.concatenate(parts)
        self.all_latents = gathered_rows(self.latents, self._longest)
        flat = self.all_latents.reshape(-1, self.latents.shape[-1]).astype(np.float64)
        try:
            self.scaling = LatentScaling(tuple(flat.mean(0)), tuple(flat.std(0)))
        except ValueError as error:
            raise ValueError(f"the latents cannot be measured: {error}") from error

    def normalized(self, latents: np.ndarray) -> np.ndarray:
        """To mean 0 and deviation 1 of each channel, as a generator sees latents. float32."""
        mean, std = (np.array(v, np.float32) for v in (self.scaling.mean, self.scaling.std))
        return (latents - mean) / std

    def batches(self, **rows: np.ndarray) -> Iterator[tuple[Batch, dict[str, jax.Array]]]:
        """Global batches of this process's rows [n, ...], by name; as many in every process."""
        size = self._size // jax.process_count()
        for start in range(0, self._longest, size):
            part = {name: array[start : start + size] for name, array in rows.items()}
            count = min(len(x) for x in part.values())
            padded = {
                name: np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)])
                for name, x in part.items()
            }
            names = [f"image {self._first + start + row}" for row in range(count)]
            yield Batch(slice(start, start + count), names), global_batch(padded, self._mesh)

    def decoder(self, along: bool) -> Callable:
        """decode(batch, arrays, amount): images of normalized latents moved by noise.

        arrays: `latents` and `indices`; along and amount: see moved. uint8 [B, H, W, 3].
        """
        mean, std = (np.array(v, np.float32) for v in (self.scaling.mean, self.scaling.std))

        def decode(batch: Batch, arrays: dict[str, jax.Array], amount: float) -> jax.Array:
            step = (np.float32(amount), np.bool_(along))
            latents, indices = arrays["latents"], arrays["indices"]
            images, finite = self._decode(self._params, latents, indices, mean, std, *step)
            self._check(finite, batch, "the decoded latents")
            return images

        return decode

    def mean(self, scores: list[np.ndarray]) -> float:
        """Of the scores of all processes, from this one's by the batch."""
        each = np.concatenate(scores)
        total, count = gather_numpy(np.array([each.sum(), len(each)])).sum(0)
        return float(total / count)

    def moments(self, features: list[np.ndarray]) -> Moments:
        """Of the features of all processes, from this one's by the batch."""
        return gathered_moments(Moments.of(np.concatenate(features)))

    def _check(self, finite: jax.Array, batch: Batch, what: str) -> None:
        rows, weights = local_rows(finite, len(batch.names)), {"the tokenizer": self._params}
        advice = "the weights are in order; try --config.compute.dtype=float32"
        check_finite(rows, batch.names, what, weights, advice)


@functools.lru_cache(maxsize=8)
def _programs(graphdef: nnx.GraphDef, seed: int, mesh: Mesh) -> tuple[Callable, Callable]:
    """encode(params, images, indices) -> (latents, finite); decode(params, normalized latents,
    indices, mean, std, amount, along) -> (images uint8, finite). One of each is compiled.
    """

    def encode(params, images, indices):
        posterior = nnx.merge(graphdef, params).encode(to_model_range(images))
        latents = posterior_sample(posterior, indices, seed, 0)
        return latents, rows_are_finite(latents)

    def decode(params, latents, indices, mean, std, amount, along):
        root = jax.random.fold_in(jax.random.key(seed), _NOISE)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(root, indices)
        noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys)
        decoded = nnx.merge(graphdef, params).decode(
            moved(latents, noise, amount, along) * std + mean
        )
        return to_uint8(decoded), rows_are_finite(decoded)

    return jit_batches(encode, mesh), jit_batches(decode, mesh)
