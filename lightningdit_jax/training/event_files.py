"""TensorBoard's event files, without TensorFlow."""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check

from lightningdit_jax.storage_errors import storing

# Bytes after which events go on in another file: object stores get all of a file at every record,
# out of memory.
EVENTS_BYTES = 2**22


class EventFiles:
    """WORKDIR/tensorboard, a row of WRITERS. Written at once, in no thread that could fail unheard.

    The config is there as text, which TensorBoard needs nothing of. All methods raise StorageError.
    """

    def __init__(self, workdir: str, step: int, config: Mapping[str, Any]):
        self._folder = str(epath.Path(workdir) / "tensorboard")
        with storing(self._folder):
            directory_check(self._folder)
            self._open(step + 1)
            # TensorBoard hides what former files say of the steps from here on.
            self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
            for name, values in config.items():
                self._add(Event(step=step, summary=summary.text(f"config/{name}", str(values))))
            self._events.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Writer."""
        with storing(self._folder):
            if self._bytes > EVENTS_BYTES:
                self._events.close()
                self._open(step)
            for name, value in values.items():
                self._add(Event(step=step, summary=summary.scalar(name, value)))
            self._events.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Writer."""
        with storing(self._folder):
            picture = summary.image(name, image, dataformats="HWC")
            self._add(Event(step=step, summary=picture))
            self._events.flush()

    def close(self) -> None:
        """See Writer."""
        with storing(self._folder):
            self._events.close()

    def _open(self, step: int) -> None:
        """A file whose name comes after those before, also within the same second."""
        prefix = os.path.join(self._folder, "events")
        self._events = EventsWriter(prefix, filename_suffix=f".{step:010d}")
        self._bytes = 0

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._bytes += event.ByteSize()
        self._events.write_event(event)
