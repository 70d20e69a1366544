"""SIGINT and SIGTERM: the first ends a program where nothing is lost by it, the second at once.

Python calls a signal's handler in the main thread and between two of its lines: while that compiles
or waits for data, minutes later. So a thread reads what the interpreter writes into a pipe at the
very signal, says one line, and ends the process itself where that may be. Imports nothing of ours
and nothing slow, to be there before all else.
"""

import contextlib
import ctypes
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.1  # how often it is asked whether the process may end by now
_ONE_SECONDS = 0.25  # timeout(1) and some schedulers send one request twice
_END_SECONDS = 10.0  # a process that is gone, or a reader that has stopped, is waited for no longer


class Interruption:
    """What signals came to this process, and what they do; there is one, `INTERRUPTION`."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        # What an end at any moment leaves, and how to go on: the second half of each line.
        self.kept = "the same command begins again"
        self._may_end: Callable[[], bool] = lambda: True
        self._notify: Callable[[], None] = lambda: None
        self._before_end: list[Callable[[str, int], None]] = []
        self._listens = False
        self._lock = threading.Lock()

    def listen(self) -> None:
        """From here on signals are this module's. Only the main thread may call it; once is enough.

        Not those of processes that this one forks.
        """
        if self._listens:
            return
        self._listens = True
        os.register_at_fork(after_in_child=self._forget)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in _SIGNALS:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    @property
    def listens(self) -> bool:
        """Whether signals are this module's."""
        return self._listens

    def end_when(self, may_end: Callable[[], bool]) -> None:
        """The first signal ends the process as soon as this is true, asked in another thread."""
        with self._lock:
            self._may_end = may_end

    def claimed(self) -> bool:
        """Whether a signal came; the caller then ends the program itself, unless a second comes."""
        with self._lock:
            if self.asked:
                self._may_end = lambda: False
            return self.asked is not None

    def on_first(self, notify: Callable[[], None]) -> None:
        """What is called at a first signal that does not end the process: tells other processes."""
        self._notify = notify

    def before_end(self, call: Callable[[str, int], None]) -> None:
        """Has this called with the line and the status before the process ends."""
        self._before_end.append(call)

    def take_back(self, number: signal.Signals) -> Callable[[], None]:
        """Handles a signal again that a library took; returns what calls that one's handler."""
        library = ctypes.CDLL(None).signal
        library.restype, library.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        address = library(number, None)  # SIG_DFL, for an instant
        signal.signal(number, self._note)
        if address in (None, 0, 1):  # the default, or ignored
            return lambda: None
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
        return lambda: handler(number)

    def end(self, line: str, status: int) -> NoReturn:
        """Says a line and ends this process, in any thread and whatever the others do.

        What is half written is under a temporary name; locks are the system's, which frees them.
        """
        _say(line)
        for call in self._before_end:
            _within(_END_SECONDS, functools.partial(call, line, status))
        _within(_END_SECONDS, lambda: sys.stdout.flush())
        if "multiprocessing" in sys.modules:
            for child in sys.modules["multiprocessing"].active_children():
                child.kill()
        os._exit(status)

    def _forget(self) -> None:
        if self._listens:
            self._listens = False
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)

    def _note(self, number: int, frame: object) -> None:
        # At once for the main thread: what it asks next knows of it.
        self.asked = self.asked or signal.Signals(number)

    def _watch(self, reader: int) -> None:
        while (first := self._heard(reader, threading.TIMEOUT_MAX)) is None:
            pass
        since = time.monotonic()
        self._end_if_it_may(first)
        line = "ending when this step is done and saved; a second one ends at once"
        _say(f"{first.name}: {line}")
        self._notify()
        while True:
            second = self._heard(reader, _POLL_SECONDS)
            if second and time.monotonic() - since > _ONE_SECONDS:
                self.end(f"{second.name} again: ended at once; {self.kept}", 128 + second)
            self._end_if_it_may(first)

    def _heard(self, reader: int, seconds: float) -> signal.Signals | None:
        """The next signal of ours; None where none comes in time."""
        while select.select([reader], [], [], seconds)[0]:
            if (number := os.read(reader, 1)[0]) in _SIGNALS:
                self.asked = self.asked or signal.Signals(number)
                return signal.Signals(number)
        return None

    def _end_if_it_may(self, asked: signal.Signals) -> None:
        with self._lock:
            if self._may_end():
                self.end(f"{asked.name}: ended; {self.kept}", EXIT_STATUS)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Calls it in a thread; neither its errors nor its duration are of interest."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


INTERRUPTION = Interruption()
