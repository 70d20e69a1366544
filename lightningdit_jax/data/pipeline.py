"""The Grain pipeline: a data set whose elements are whole batches, and what fills them.

Element k is global batch k. It takes the positions p = k B ... k B + B - 1 of an endless stream in
which position p is record permutation(seed, p // N)[p % N]: every record comes exactly once per
epoch, a batch may straddle epochs, nothing is dropped. Process i of n reads the rows
[i B / n, (i + 1) B / n) of each batch. So the state of an iterator is the number of the next batch
and nothing else; it holds for any number of processes. Where the batch size changes within a run,
B k is shifted by as much as keeps the next batch's position (shift_of_batches).

All randomness is a hash of (seed, what it is for, epoch, record), so it depends neither on the
number of processes or threads nor on the batch size, nor on the version of a random generator.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import grain
import numpy as np

from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.workers import WorkerBatches
from lightningdit_jax.latent_scaling import LatentScaling

Batch = dict[str, np.ndarray]


class BatchSource(Protocol):
    """Records that are read a batch at a time.

    draws_crops: whether training gives read_batch a random `crop`.
    """

    draws_crops: bool

    def __len__(self) -> int: ...

    def read_batch(
        self, indices: np.ndarray, flip: np.ndarray, crop: np.ndarray | None = None
    ) -> Batch:
        """Records `indices` int64 [b], mirrored where `flip` bool [b].

        crop: [b, 2] in [0, 1), where a random crop lies between top and bottom, left and right.
        None, in evaluation, asks for the center.
        """
        ...

    def find_unfit(self, indices: np.ndarray, flip: np.ndarray) -> list[str]:
        """Which of these records no step stays finite with: number, place and what is wrong."""
        ...


class LatentBatches:
    """Latents as stored: {"latents": [b, C, H, W], "labels": [b] int32}.

    They are normalized and turned to NHWC on the device, by `scaling`. A flip is the stored latent
    of the mirrored image.
    """

    draws_crops = False

    def __init__(
        self,
        shards: LatentShards,
        scaling: LatentScaling = LatentScaling(),  # noqa: B008, frozen
    ):
        self.shards, self.scaling = shards, scaling

    def __len__(self) -> int:
        return len(self.shards)

    def read_batch(
        self, indices: np.ndarray, flip: np.ndarray, crop: np.ndarray | None = None
    ) -> Batch:
        """See BatchSource."""
        latents = self.shards.read_stored(indices, flip)
        return {"latents": latents, "labels": self.shards.labels[indices].astype(np.int32)}

    def find_unfit(self, indices: np.ndarray, flip: np.ndarray) -> list[str]:
        """See BatchSource. Numbers are too large where, once scaled, their fourth power overflows.

        The loss squares them, and the norm of its gradients squares once more.
        """
        latents = self.shards.read_stored(indices, flip).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            powers = self.scaling.normalize(latents) ** 4
        found = []
        for row in np.flatnonzero(~np.isfinite(powers).all((1, 2, 3))):
            wrong = np.count_nonzero(~np.isfinite(latents[row]))
            what = f"{wrong} of {latents[row].size} numbers are not finite"
            if not wrong:
                what = f"numbers as large as {np.abs(latents[row]).max():.3g}"
            index = int(indices[row])
            found.append(f"record {index} ({self.shards.locate(index, flip[row])}): {what}")
        return found


class Pipeline:
    """Training batches: iterate over it for them, see make_pipeline."""

    def __init__(self, batches: "_TrainingBatches", elements: grain.IterDataset | WorkerBatches):
        self._batches, self._elements = batches, elements

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._elements)

    def find_unfit(self, state: Mapping[str, int]) -> list[str]:
        """BatchSource.find_unfit of the batch that comes next at a state of the iterator."""
        return self._batches.find_unfit(state["next_index"])


def shift_of_batches(next_index: int, before: int, after: int, shift: int = 0) -> int:
    """Shift of the batches from `next_index` on, whose size goes from `before` to `after`.

    shift: of the batches before. The stream goes on at its next position: no record is left out or
    comes again. Batches from before the change are not to be read with it.
    """
    return shift + next_index * (before - after)


def make_pipeline(
    source: BatchSource,
    *,
    global_batch_size: int,
    shift: int = 0,
    seed: int,
    flip: bool,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int,
    prefetch_batches: int,
    num_workers: int = 0,
) -> Pipeline:
    """Endless training batches of this process: arrays of global_batch_size / process_count rows.

    `flip` mirrors each record with probability 1/2, drawn anew every epoch. shift: batch k begins
    at position k * global_batch_size + shift, see shift_of_batches. Iterators are
    checkpointable: get_state() is {"next_index": k}, the same for every process and any
    process_count and num_workers. num_workers: processes that read, or 0 for threads of this one.
    Raises ValueError for an empty source or a batch that the processes cannot share equally.
    """
    if len(source) == 0:
        raise ValueError("the data source is empty; expected at least one record")
    if global_batch_size < 1 or global_batch_size % process_count:
        raise ValueError(
            f"config.train.batch_size is {global_batch_size}; expected a multiple of the "
            f"{process_count} processes, at least {process_count}"
        )
    rows = global_batch_size // process_count
    batches = _TrainingBatches(
        source, global_batch_size, shift + process_index * rows, rows, seed, flip, shuffle
    )
    if num_workers:
        return Pipeline(batches, WorkerBatches(batches, num_workers, prefetch_batches))
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch_batches)
    return Pipeline(batches, grain.MapDataset.source(batches).to_iter_dataset(options))


def sequential_batches(
    source: BatchSource,
    batch_size: int,
    ranges: Sequence[tuple[int, int]],
    num_workers: int = 0,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Records of each range [start, stop) once, in order, center crops: pairs (indices [b], batch).

    No batch reaches over the end of a range, so the last of each may be short, and others where
    records cannot be read and are skipped. The next batches are read while one is used, by
    num_workers processes, or by threads where it is 0.
    Raises ValueError for a range outside the source or a batch size below 1.
    """
    for start, stop in ranges:
        if not 0 <= start <= stop <= len(source) or batch_size < 1:
            raise ValueError(
                f"records {start} to {stop} of {len(source)} in batches of {batch_size}; expected "
                "0 <= start <= stop <= len and a batch of at least 1"
            )
    batches = _SequentialBatches(source, batch_size, ranges)
    if num_workers:
        return iter(WorkerBatches(batches, num_workers, prefetch=2 * num_workers))
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


class _TrainingBatches:
    """As many rows of every global batch, from first_row on, which shifts the batches too."""

    def __init__(
        self,
        source: BatchSource,
        global_batch_size: int,
        first_row: int,
        rows: int,
        seed: int,
        flip: bool,
        shuffle: bool,
    ):
        self._source, self._global_batch_size = source, global_batch_size
        self._first_row, self._rows = first_row, rows
        self._seed, self._flip, self._shuffle = seed, flip, shuffle

    def __len__(self) -> int:
        return np.iinfo(np.int64).max // self._global_batch_size  # without end

    def __getitem__(self, k: int) -> Batch:
        epochs, indices, flip = self._records(k)
        if not self._source.draws_crops:
            return self._source.read_batch(indices, flip)
        axes = ("crop top", "crop left")
        crop = np.stack([_uniform(self._seed, axis, epochs, indices) for axis in axes], axis=-1)
        return self._source.read_batch(indices, flip, crop)

    def find_unfit(self, k: int) -> list[str]:
        """BatchSource.find_unfit of batch k."""
        _, indices, flip = self._records(k)
        return self._source.find_unfit(indices, flip)

    def _records(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, index and whether it is mirrored, of each record of batch k."""
        size = len(self._source)
        positions = k * self._global_batch_size + self._first_row + np.arange(self._rows)
        epochs, indices = positions // size, positions % size
        if self._shuffle:
            for epoch in np.unique(epochs):
                of_epoch = epochs == epoch
                order = _permutation(self._seed, int(epoch), size)
                indices[of_epoch] = order[indices[of_epoch]]
        if self._flip:
            flip = _random_bits(self._seed, "flip", epochs, indices) >> np.uint64(63) == 1
        else:
            flip = np.zeros(len(indices), bool)
        return epochs, indices, flip


class _SequentialBatches:
    def __init__(self, source: BatchSource, batch_size: int, ranges: Sequence[tuple[int, int]]):
        self._source = source
        self._ranges = [
            (first, min(first + batch_size, stop))
            for start, stop in ranges
            for first in range(start, stop, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, k: int) -> tuple[np.ndarray, Batch]:
        indices = np.arange(*self._ranges[k])
        batch = self._source.read_batch(indices, np.zeros(len(indices), bool))
        rows = batch.pop("rows", None)
        return indices if rows is None else indices[rows], batch


# What a random number is for; independent streams of one seed.
_STREAMS: Mapping[str, int] = {"order": 1, "flip": 2, "crop top": 3, "crop left": 4}


def _random_bits(seed: int, stream: str, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """64 random bits per (epoch, index): a chain of SplitMix64 steps (Steele et al. 2014).

    A counter-based generator: any element can be drawn alone, all of them vectorized.
    """
    state = _mix64(np.array([seed % 2**64], np.uint64))
    for word in (_STREAMS[stream], epochs, indices):
        state = _mix64(state ^ np.asarray(word, np.uint64))
    return state


def _mix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(seed: int, stream: str, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Uniform on [0, 1), float64."""
    return (_random_bits(seed, stream, epochs, indices) >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch, int64 [size]: the records sorted by a random key."""
    keys = _random_bits(seed, "order", np.array([epoch]), np.arange(size))
    order = np.argsort(keys, kind="stable")
    order.flags.writeable = False
    return order
