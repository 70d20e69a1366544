"""Ending as one: processes that are asked to stop, and processes that fail.

A process that waits in a collective for one that is gone waits long. So a SIGTERM or SIGINT to one
becomes the end of all after the same step, and an exception in one becomes the end of all at once.
For a process that dies without a word (SIGKILL, a lost machine) there is the heartbeat of
multihost.initialize.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

from lightningdit_jax.interruption import EXIT_STATUS, INTERRUPTION
from lightningdit_jax.storage_errors import EXIT_STATUS as STORAGE
from lightningdit_jax.storage_errors import StorageError

_ENDING = "lightningdit_jax/ending"
_LEAVING = threading.Lock()


class Preempted(SystemExit):
    """Everything is saved and the same command goes on; ends the program with EXIT_STATUS."""

    def __init__(self, step: int):
        super().__init__(EXIT_STATUS)
        self.step = step


@contextlib.contextmanager
def preemption_notice(
    is_saved: Callable[[int], bool] = lambda step: False,
) -> Iterator[Callable[[int], bool]]:
    """Yields reached(step): whether a signal came and this is the step to save and end after.

    is_saved(step): whether that step's checkpoint is on disk, complete. In a program that listens
    to signals (interruption.py), one that comes before the first step, or while the last step is
    saved already, ends the process at once: there is nothing to lose.
    With jax.distributed a signal to any process counts, and all agree on a step within about two
    seconds: all must call reached after every step, from the same first one. In a program that does
    not listen a lone process handles SIGTERM itself within the context, but for threads other than
    the main one.
    """
    several = jax.distributed.is_initialized()
    if INTERRUPTION.listens:
        yield _listening(is_saved, several)
        INTERRUPTION.end_when(lambda: True)
        return
    if several:  # its service handles SIGTERM itself
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    try:
        former = signal.signal(signal.SIGTERM, lambda signum, frame: asked.set())
    except ValueError:  # not the main thread
        yield lambda step: False
        return
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, former)


def _listening(is_saved: Callable[[int], bool], several: bool) -> Callable[[int], bool]:
    last: int | None = None

    def reached(step: int) -> bool:
        nonlocal last
        last = step
        if several:
            return multihost_utils.reached_preemption_sync_point(step)
        return INTERRUPTION.claimed()

    def may_end() -> bool:
        # Several processes: of one that saved alone the others would not know.
        return last is None or (not several and is_saved(last))

    INTERRUPTION.end_when(may_end)
    return reached


@contextlib.contextmanager
def failing_together(poll_seconds: float = 1.0) -> Iterator[None]:
    """Within it, an exception in one process ends all: the others say which and exit with 1.

    With the status of its own for a StorageError. The process that failed raises its exception as
    it would alone. So does a signal that ends a process at once end all, with its status.
    """
    client = distributed.global_state.client
    if client is None:
        yield
        return
    if INTERRUPTION.listens:  # before the service of jax.distributed took this signal
        INTERRUPTION.on_first(INTERRUPTION.take_back(signal.SIGTERM))
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    INTERRUPTION.before_end(functools.partial(_leave, done))
    watcher = threading.Thread(target=_watch, args=(client, done, poll_seconds), daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if _LEAVING.locked():  # another thread ends the process; that is what it fails of
            threading.Event().wait()
        done.set()
        status = STORAGE if isinstance(error, StorageError) else 1
        _publish(f"{type(error).__name__}: {error}", status)
        raise
    finally:
        done.set()
        watcher.join()


def _publish(reason: str, status: int) -> None:
    message = {"reason": f"process {jax.process_index()}: {reason}", "status": status}
    client: Any = distributed.global_state.client
    client.key_value_set(_ENDING, json.dumps(message), allow_overwrite=True)


def _leave(done: threading.Event, line: str, status: int) -> None:
    """Tells the others that this process ends, and waits until they have left the cluster too."""
    done.set()  # what is published is for the others
    _publish(line, status)
    _shut_down()


def _shut_down() -> None:
    """Leaves the cluster when all do; who comes second, in this process, waits for the end."""
    if not _LEAVING.acquire(blocking=False):
        threading.Event().wait()
    # The one that failed waits for us to leave the cluster, in its own exit.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.distributed.shutdown()


def _watch(client, done: threading.Event, poll_seconds: float) -> None:
    while not done.wait(poll_seconds):
        try:
            message = json.loads(client.key_value_try_get(_ENDING))
        except jax.errors.JaxRuntimeError:  # there is no such key
            continue
        what = "does" if message["status"] == EXIT_STATUS else "failed"
        line = f"ending, because another process {what}: {message['reason']}"
        print(line, file=sys.stderr, flush=True)
        _shut_down()
        os._exit(message["status"])
