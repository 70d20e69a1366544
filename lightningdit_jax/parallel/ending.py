"""Ending as one: processes that are asked to stop, and processes that fail.

A process that waits in a collective for one that is gone waits long. So a SIGTERM to one becomes
the end of all after the same step, and an exception in one becomes the end of all at once. For a
process that dies without a word (SIGKILL, a lost machine) there is the heartbeat of
multihost.initialize.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
from jax._src import distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
_FAILURE = "lightningdit_jax/failure"


class Preempted(SystemExit):
    """Everything is saved and the same command goes on; ends the program with EXIT_STATUS."""

    def __init__(self, step: int):
        super().__init__(EXIT_STATUS)
        self.step = step


@contextlib.contextmanager
def preemption_notice() -> Iterator[Callable[[int], bool]]:
    """Yields reached(step): whether SIGTERM came and this is the step to save and end after.

    With jax.distributed a SIGTERM to any process counts, and all agree on a step within about two
    seconds: all must call reached after every step, from the same first one. A lone process
    handles the signal itself within the context; outside of the main thread it is not noticed.
    """
    if jax.distributed.is_initialized():  # which has installed a handler of its own
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


@contextlib.contextmanager
def failing_together(poll_seconds: float = 1.0) -> Iterator[None]:
    """Within it, an exception in one process ends all: the others say which and exit with 1.

    The process that failed raises its exception as it would alone.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, done, poll_seconds), daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        done.set()
        reason = f"process {jax.process_index()}: {type(error).__name__}: {error}"
        client.key_value_set(_FAILURE, reason, allow_overwrite=True)
        raise
    finally:
        done.set()
        watcher.join()


def _watch(client, done: threading.Event, poll_seconds: float) -> None:
    while not done.wait(poll_seconds):
        try:
            reason = client.key_value_try_get(_FAILURE)
        except jax.errors.JaxRuntimeError:  # there is no such key
            continue
        print(f"ending, because another process failed: {reason}", file=sys.stderr, flush=True)
        # The one that failed waits for us to leave the cluster, in its own exit.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()
        os._exit(1)
