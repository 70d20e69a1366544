"""Image batches on the mesh, for jobs that go over a data set once and in order."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import ExtractConfig
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.pipeline import sequential_batches
from lightningdit_jax.models.tokenizer import Tokenizer
from lightningdit_jax.parallel.multihost import gather_numpy, global_batch


def process_range(total: int) -> tuple[int, int]:
    """The indices this process is responsible for: [start, stop), disjoint and complete."""
    i, n = jax.process_index(), jax.process_count()
    return total * i // n, total * (i + 1) // n


def image_resolution(extract: ExtractConfig, tokenizer: Tokenizer) -> int:
    """Side of the images that a tokenizer is given: extract.resolution, or its own.

    Raises ValueError for a side that its latents do not divide.
    """
    side = extract.resolution or tokenizer.resolution
    if side % tokenizer.downsample_factor:
        raise ValueError(
            f"config.extract.resolution is {side}; expected a multiple of "
            f"{tokenizer.downsample_factor}, the pixels a side of the tokenizer's latents"
        )
    return side


def padded_batches(
    source: ImageBatches,
    ranges: Sequence[tuple[int, int]],
    batch_size: int,
    resolution: int,
    mesh: Mesh,
    num_workers: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, jax.Array]]]:
    """Yields (local indices [b], local labels [b], global batch of `images` and `indices`).

    ranges: [start, stop) of this process, each batched by itself. batch_size is global. Every
    process makes the same number of batches of the same size; rows beyond b are padding.
    """
    local_size = batch_size // jax.process_count()
    mine = sum(-(-(stop - start) // local_size) for start, stop in ranges)
    most = int(gather_numpy(np.array(mine)).max())
    batches = sequential_batches(source, local_size, ranges, num_workers)
    for _ in range(most):
        indices, batch = next(batches, (np.zeros(0, np.int64), None))
        rows = np.zeros((local_size, resolution, resolution, 3), np.uint8)
        padded = np.zeros(local_size, np.int32)
        if batch is not None:
            rows[: len(indices)] = batch["images"]
            padded[: len(indices)] = indices
        labels = np.zeros(0, np.int32) if batch is None else batch["labels"]
        yield indices, labels, global_batch({"images": rows, "indices": padded}, mesh)


def local_rows(array: jax.Array, count: int) -> np.ndarray:
    """The first `count` of this process's rows of an array sharded over the batch."""
    shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
    return np.concatenate([np.asarray(shards[k]) for k in sorted(shards)])[:count]
