"""One pass over all images that writes what a network makes of each, and of its mirror image."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.inference.extraction.shards import ShardWriter, missing_shards
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import local_rows, padded_batches, process_range
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.multihost import is_main_process
from lightningdit_jax.parallel.run_ahead import run_ahead
from lightningdit_jax.progress import Progress

# Indices and labels [b] of this process, what the global batch became, and its mirror images.
Encoded = tuple[np.ndarray, np.ndarray, Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """encode(params, images [B, H, W, 3] uint8, indices [B]) -> two arrays [B, h, w, C].

    what: it makes, and network: it is, in messages. dtype: as which it is stored, by dtype_key.
    """

    encode: Callable[..., Any]
    params: Any
    what: str
    network: str
    dtype: str
    dtype_key: str


def write_shards(
    config: Config,
    encoder: Encoder,
    source: ImageBatches,
    resolution: int,
    folder: epath.Path,
    mesh: Mesh,
) -> None:
    """Writes the shards that `folder` lacks. All processes must call it.

    Raises FloatingPointError naming images whose numbers are not finite as they are stored; no
    shard holds such.
    """
    options, encode = config.extract, jit_batches(encoder.encode, mesh)
    rank, (start, stop) = jax.process_index(), process_range(len(source))
    shards = missing_shards(folder, rank, start, stop, options.shard_size)
    ranges = list(shards.values())
    rows = options.batch_size // jax.process_count()
    writer = ShardWriter(folder, rank, shards, rows, encoder.dtype)
    todo = sum(stop - start for start, stop in ranges)
    progress, done = Progress("extracted", todo, quiet=not (is_main_process() and todo)), 0
    progress.compiling()

    def to_store(encoded: jax.Array, indices: np.ndarray) -> np.ndarray:
        """This process's rows in the type of the files, where finite is asked of them."""
        rows = local_rows(encoded, len(indices))
        with np.errstate(over="ignore"):  # said below
            stored = rows.astype(jnp.dtype(encoder.dtype), copy=False)
        finite = np.isfinite(stored).all(axis=(1, 2, 3))
        if not finite.all():
            names = [source.source.name(int(i)) for i in indices]
            advice = "the weights and the image are in order; try --config.compute.dtype=float32"
            if np.isfinite(rows).all():
                advice = (
                    f"{encoder.dtype} cannot hold them; set --config.{encoder.dtype_key}=float32"
                )
            check_finite(finite, names, encoder.what, {encoder.network: encoder.params}, advice)
        return stored

    def encoded_batches() -> Iterator[Encoded]:
        batches = padded_batches(
            source, ranges, options.batch_size, resolution, mesh, config.data.num_workers
        )
        for indices, labels, batch in batches:
            yield indices, labels, encode(encoder.params, batch["images"], batch["indices"])

    def store(batch: Encoded) -> int:
        """The number of images."""
        indices, labels, encoded = batch
        as_they_are, flipped = (to_store(array, indices) for array in encoded)
        writer.add(as_they_are, flipped, labels)
        return len(indices)

    for count in run_ahead(encoded_batches(), store):
        if count:  # otherwise padding, while other processes have images left
            done += count
            progress.update(done)
    writer.close()
    multihost_utils.sync_global_devices(f"{encoder.what} written")
