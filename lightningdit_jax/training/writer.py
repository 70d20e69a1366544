"""Metrics to TensorBoard and JSONL."""

import json
import os
import time
from collections.abc import Mapping

from absl import logging
from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.errors import listed
from lightningdit_jax.metrics_log import read_log
from lightningdit_jax.storage_errors import storing

EVALUATION = "eval/"  # prefix of the names in a record of an evaluation
# Bytes after which events go on in another file: object stores get all of a file at every record,
# out of memory.
EVENTS_BYTES = 2**22


class MetricWriter:
    """Writes WORKDIR/metrics.jsonl (one record per line) and TensorBoard events.

    A resumed run first drops the records after its checkpoint, so that the file reads as if the
    run had never stopped. Both are written at once, in no thread that could fail unheard, and
    nothing of either is kept in memory that the storage can append to. All methods raise
    StorageError.
    """

    def __init__(self, workdir: str, *, start_step: int):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._can_append = "://" not in str(workdir)
        self._event_folder = str(epath.Path(workdir) / "tensorboard")
        self._open(start_step)

    def rewind(self, step: int) -> None:
        """Drops the records after a step, for a run that goes back to its checkpoint."""
        self.close()
        self._open(step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One record: the step and the named scalars."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        if self._can_append:
            with storing(self._path), open(self._path, "a") as file:
                file.write(line)
        else:
            self._lines.append(line)
            self._flush(self._lines)
        with storing(self._event_folder):
            if self._events_bytes > EVENTS_BYTES:
                self._events.close()
                self._open_events(step)
            for name, value in scalars.items():
                self._add(Event(step=step, summary=scalar(name, value)))
            self._events.flush()

    def has(self, step: int, prefix: str) -> bool:
        """Whether there is a record of this step whose names begin so."""
        lines = [line for of_step, line in read_log(self._path)[0] if of_step == step]
        return any(name.startswith(prefix) for line in lines for name in json.loads(line))

    def close(self) -> None:
        """Ends the event file."""
        with storing(self._event_folder):
            self._events.close()

    def _open(self, step: int) -> None:
        if step and not self._path.exists():
            logging.warning("%s is not there: records begin with step %d", self._path, step + 1)
        lines = _records_until(self._path, step)
        self._flush(lines)
        self._lines = [] if self._can_append else lines
        with storing(self._event_folder):
            directory_check(self._event_folder)
            self._open_events(step + 1)
            # TensorBoard hides what former files say of the steps from here on.
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
            self._events.flush()

    def _open_events(self, step: int) -> None:
        """A file whose name comes after those before, also within the same second."""
        prefix = os.path.join(self._event_folder, "events")
        self._events = EventsWriter(prefix, filename_suffix=f".{step:010d}")
        self._events_bytes = 0

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events_bytes += event.ByteSize()
        self._events.write_event(event)

    def _flush(self, lines: list[str]) -> None:
        text = "".join(lines)
        if not self._can_append:
            with storing(self._path):
                self._path.write_text(text)  # an object appears whole or not at all
            return
        with replacing(self._path) as temporary:
            temporary.write_text(text)


def _records_until(path: epath.Path, step: int) -> list[str]:
    """Whole records up to a step.

    Damaged lines, such as one cut short by a kill, are left out with a warning: it is only a log.
    """
    records, damaged = read_log(path) if path.exists() else ([], [])
    if damaged:
        numbers = listed([str(number) for number in damaged])
        logging.warning("%s: damaged lines are left out: %s", path, numbers)
    return [f"{line}\n" for of_step, line in records if of_step <= step]
