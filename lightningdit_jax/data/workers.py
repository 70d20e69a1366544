"""Batches read by worker processes, through Grain; their iterator's state is one number."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags


class WorkerBatches:
    """The elements of a sequence of batches, in order, read by `num_workers` processes in turn.

    batches: has __len__ and __getitem__, and can be pickled. `prefetch` batches at least are read
    ahead. Elements travel through shared memory, so /dev/shm has to hold them (in Docker --shm-size
    or --ipc=host), and the processes import the main program anew: it needs the usual
    `if __name__ == "__main__":`. Iterators are checkpointable with the state of Grain's iterators
    without workers, {"next_index": k}, so the number of workers may change between runs.
    """

    def __init__(self, batches: Any, num_workers: int, prefetch: int):
        self._batches, self._num_workers = batches, num_workers
        self._buffer = max(1, prefetch // num_workers)

    def __iter__(self) -> "WorkerIterator":
        return WorkerIterator(self)

    def from_batch(self, first: int) -> grain.DatasetIterator:
        """Grain's iterator over the batches from `first` on; starts the processes."""
        if not flags.FLAGS.is_parsed():  # Grain reads its flags, also in programs without absl.app
            flags.FLAGS(sys.argv[:1])
        # A batch is decoded by the threads of its source: one at a time is enough.
        one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        options = grain.MultiprocessingOptions(self._num_workers, self._buffer)
        elements = grain.MapDataset.source(self._batches)[first:]
        return iter(elements.to_iter_dataset(one).mp_prefetch(options))


class WorkerIterator:
    """See WorkerBatches. The processes start with the first batch."""

    def __init__(self, batches: WorkerBatches):
        self._batches, self._next = batches, 0
        self._running: grain.DatasetIterator | None = None

    def __iter__(self) -> "WorkerIterator":
        return self

    def __next__(self) -> Any:
        try:
            if self._running is None:
                with _without_sigint():
                    self._running = self._batches.from_batch(self._next)
                    element = next(self._running)
            else:
                element = next(self._running)
        except Exception:
            self.close()  # after an error Grain would say that the batches have ended
            raise
        self._next += 1
        return element

    def get_state(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on at another batch; the processes end and others start."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends the processes."""
        if self._running is not None:
            self._running.close()
        self._running = None


@contextlib.contextmanager
def _without_sigint() -> Iterator[None]:
    """Processes that are started within it do not get SIGINT.

    A terminal sends it to them too, which would end them, each with a traceback, while the main
    process still wants a batch. They end with it. What they share through memory is then removed by
    Python's tracker of it, without a word.
    """
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(quiet)  # with which it is started
    resource_tracker.ensure_running()  # which unblocks signals, so before
    sys.warnoptions.remove(quiet)
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
