"""Metrics to JSONL, and to what else train.writers names."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.errors import listed
from lightningdit_jax.metrics_log import RECORDS, read_log
from lightningdit_jax.storage_errors import storing
from lightningdit_jax.training.pictures import drop_after
from lightningdit_jax.training.writers import Writers

EVALUATION = "eval/"  # prefix of the names in a record of an evaluation


class MetricWriter:
    """Writes WORKDIR/metrics.jsonl (one record per line), and to `writers`, names of WRITERS.

    A resumed run first drops the records after its checkpoint, so that the file reads as if the
    run had never stopped; pictures of such steps go too. It is written at once, and nothing of it
    is kept in memory that the storage can append to. config: nested, for the writers. All methods
    raise StorageError.
    """

    def __init__(
        self,
        workdir: str,
        *,
        start_step: int,
        writers: Sequence[str] = (),
        config: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._path = epath.Path(workdir) / RECORDS
        self._can_append = "://" not in str(workdir)
        self._workdir, self._names, self._config = str(workdir), writers, config
        self._open(start_step)

    def rewind(self, step: int) -> None:
        """Drops the records after a step, for a run that goes back to its checkpoint."""
        self.close()
        self._open(step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Hands a picture [H, W, 3] uint8 to the writers."""
        self._writers.image(step, name, image)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One record: the step and the named scalars."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        if self._can_append:
            with storing(self._path), open(self._path, "a") as file:
                file.write(line)
        else:
            self._lines.append(line)
            self._flush(self._lines)
        self._writers.scalars(step, scalars)

    def has(self, step: int, prefix: str) -> bool:
        """Whether there is a record of this step whose names begin so."""
        lines = [line for of_step, line in read_log(self._path)[0] if of_step == step]
        return any(name.startswith(prefix) for line in lines for name in json.loads(line))

    def close(self) -> None:
        """Ends what the writers have open."""
        self._writers.close()

    def _open(self, step: int) -> None:
        if step and not self._path.exists():
            logging.warning("%s is not there: records begin with step %d", self._path, step + 1)
        lines = _records_until(self._path, step)
        self._flush(lines)
        self._lines = [] if self._can_append else lines
        drop_after(self._workdir, step)
        self._writers = Writers(self._names, self._workdir, step, self._config)

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
