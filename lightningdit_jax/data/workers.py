"""Batches read by worker processes, through Grain; their iterator's state is one number."""

import contextlib
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import grain
from absl import flags, logging

HANGS_SECONDS = 600.0  # without a batch; storage that is slow may take some minutes
_MOST_FAILURES = 3  # at one batch, which then is what they die of
_POLL_SECONDS = 1.0
_GONE_SECONDS = 5.0  # in which Grain notices by itself that a process is gone


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
        # Grain reads its flags, also in programs without absl.app, where they have their defaults.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # A batch is decoded by the threads of its source: one at a time is enough.
        one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        options = grain.MultiprocessingOptions(self._num_workers, self._buffer)
        elements = grain.MapDataset.source(self._batches)[first:]
        return iter(elements.to_iter_dataset(one).mp_prefetch(options))


class WorkerError(ValueError):
    """Processes that read data died or hung again and again."""


class WorkerIterator:
    """See WorkerBatches. The processes start with the first batch.

    Where one of them dies, or no batch comes for HANGS_SECONDS, all are ended, with a line, and
    others go on at the same batch; batches are a function of their number, so nothing is lost.
    Raises WorkerError where that does not help, and what reading raised.
    """

    def __init__(self, batches: WorkerBatches):
        self._batches, self._next = batches, 0
        self._running: grain.DatasetIterator | None = None
        self._others: set[BaseProcess] = set()
        self._processes: set[BaseProcess] = set()

    def __iter__(self) -> "WorkerIterator":
        return self

    def __next__(self) -> Any:
        for failure in range(1, _MOST_FAILURES + 1):
            try:
                element = self._element()
                break
            except _WorkersFailedError as error:
                self._abandon()
                if failure == _MOST_FAILURES:
                    raise WorkerError(
                        f"batch {self._next}: {error}, {failure} times in a row; see whether there "
                        "is memory for them (dmesg) and the storage answers, or read by threads: "
                        "--config.data.num_workers=0"
                    ) from error
                logging.warning("batch %d: %s; others go on at this batch", self._next, error)
            except Exception:
                self.close()  # after an error Grain would say that the batches have ended
                raise
        self._next += 1
        self._note_processes()
        return element

    def _element(self) -> Any:
        """The next one. Raises _WorkersFailedError."""
        if self._running is None:
            self._others = set(multiprocessing.active_children())
        answer = _in_a_thread(self._start if self._running is None else self._running.__next__)
        began = time.monotonic()
        gone_since = None
        while True:
            try:
                element, error = answer.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                pass
            now, gone = time.monotonic(), self._gone()
            gone_since = (gone_since or now) if gone else None
            if gone_since is not None and now - gone_since > _GONE_SECONDS:
                raise _WorkersFailedError(gone)
            if now - began > HANGS_SECONDS:
                hung = f"no batch came from the processes that read data for {now - began:.0f} s"
                raise _WorkersFailedError(hung)
        if isinstance(error, RuntimeError) and (gone := self._gone()):
            raise _WorkersFailedError(gone) from error
        if error is not None:
            raise error
        return element

    def _start(self) -> Any:
        with _without_sigint():
            self._running = self._batches.from_batch(self._next)
            return next(self._running)

    def _note_processes(self) -> None:
        """Python forgets those that have ended."""
        self._processes |= set(multiprocessing.active_children()) - self._others

    def _gone(self) -> str:
        """Which of the processes died, and of what; empty where none did."""
        self._note_processes()
        died = {p.pid: p.exitcode for p in self._processes if p.exitcode}
        return ", ".join(f"process {pid}, which reads data, {_end(died[pid])}" for pid in died)

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
        self._running, self._processes = None, set()

    def _abandon(self) -> None:
        """Ends the processes, whatever they do; what they share may be locked for ever."""
        for process in self._processes:
            process.kill()
        if self._running is not None:
            with contextlib.suppress(queue.Empty):
                _in_a_thread(self._running.close).get(timeout=_GONE_SECONDS)
        self._running, self._processes = None, set()


class _WorkersFailedError(Exception):
    """Processes died or hang; says which."""


def _in_a_thread(call: Callable[[], Any]) -> "queue.Queue[tuple[Any, BaseException | None]]":
    """Where (result, error) of the call will be; a thread that waits for ever is no hindrance."""
    answer: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    return answer


def _end(exitcode: int) -> str:
    if exitcode < 0:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode}"


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
