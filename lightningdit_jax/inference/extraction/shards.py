"""Rows of latents, batch by batch -> the shards of one process."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from absl import logging
from etils import epath
from tqdm import tqdm

from lightningdit_jax.data.latents import is_whole_shard, shard_name, write_shard
from lightningdit_jax.data.latents_digests import is_as_written, read_digests
from lightningdit_jax.verification import is_verifying


def missing_shards(
    folder: epath.Path, rank: int, start: int, stop: int, size: int
) -> dict[int, tuple[int, int]]:
    """Shards of a process's images [start, stop) that are not there: {number: its images}.

    What is there is compared with its digest; a damaged one counts as missing, with a line.
    """
    digests = read_digests(folder) if is_verifying() else {}
    shards = list(enumerate(range(start, stop, size)))
    missing = {}
    for number, first in tqdm(shards, "shards looked at", unit=" files", delay=5, leave=False):
        path = folder / shard_name(rank, number)
        whole = is_whole_shard(path)
        if whole and is_as_written(path, digests) is False:
            logging.warning("%s is not as it was written (SHA-256): it is made again", path)
            whole = False
        if not whole:
            missing[number] = (first, min(first + size, stop))
    return missing


class ShardWriter:
    """Collects the rows of one shard after the other and writes each when its batches are there.

    shards: as of `missing_shards`, in the order in which batches come, `batch_size` images each but
    for the last of a shard. dtype: of the stored latents. A shard is written while the next is
    collected, so two are in memory.
    """

    def __init__(
        self,
        folder: epath.Path,
        rank: int,
        shards: dict[int, tuple[int, int]],
        batch_size: int,
        dtype: str,
    ):
        self._folder, self._rank, self._dtype = folder, rank, dtype
        self._shards = iter(
            (number, -(-(stop - start) // batch_size)) for number, (start, stop) in shards.items()
        )
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._number, self._left = next(self._shards, (0, 0))
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future | None = None

    def add(self, latents: np.ndarray, flipped: np.ndarray, labels: np.ndarray) -> None:
        """Rows of the next batch: [b, H, W, C], [b, H, W, C], [b]. b may be smaller, even 0.

        Batches after the last shard are padding and ignored. Raises what writing raised.
        """
        if self._writing is not None and self._writing.done():
            self._wait()  # what failed is said now and not a shard later
        if self._left == 0:
            return
        self._rows.append((latents, flipped, labels))
        self._left -= 1
        if self._left == 0:
            self._wait()
            self._writing = self._thread.submit(self._write, self._number, self._rows)
            self._rows = []
            self._number, self._left = next(self._shards, (0, 0))

    def close(self) -> None:
        """Waits until all is on disk."""
        self._wait()
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, number: int, rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        columns = map(np.concatenate, zip(*rows))
        write_shard(self._folder, self._rank, number, *columns, self._dtype)
