"""Where records and pictures go besides metrics.jsonl, by the names of train.writers."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging

from lightningdit_jax.errors import one_line, unknown_name
from lightningdit_jax.training.event_files import EventFiles
from lightningdit_jax.training.mlflow_writer import MlflowWriter
from lightningdit_jax.training.wandb_writer import WandbWriter


class Writer(Protocol):
    """Of the main process, from a step on; one that goes back is closed and opened again."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A record: named numbers of a step."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture of a step, [H, W, 3] uint8."""

    def close(self) -> None:
        """Ends what was written."""


@dataclasses.dataclass(frozen=True)
class WriterRow:
    """open(workdir, step, config): a Writer of what comes after a step, config nested as JSON.

    package: that it imports when it is opened, and the extra that brings it; "" for none. Such a
    tracker is somebody else's, often beyond a network: where it fails, a warning says so, and the
    run goes on without it.
    """

    open: Callable[[str, int, Mapping[str, Any]], Writer]
    package: str = ""


WRITERS = {
    "tensorboard": WriterRow(EventFiles),
    "wandb": WriterRow(WandbWriter, "wandb"),
    "mlflow": WriterRow(MlflowWriter, "mlflow"),
}


def check_writers(names: Sequence[str]) -> None:
    """Raises ValueError for a name that WRITERS lacks, and for one whose package is not there."""
    for name in names:
        if name not in WRITERS:
            raise ValueError(unknown_name("name in config.train.writers", name, tuple(WRITERS)))
        package = WRITERS[name].package
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"config.train.writers has '{name}', but {package} is not installed: "
                f"pip install -e '.[{package}]', or leave it out"
            )


class Writers:
    """All of train.writers as one Writer."""

    def __init__(self, names: Sequence[str], workdir: str, step: int, config: Mapping[str, Any]):
        self._open: dict[str, Writer] = {}
        for name in names:
            with self._forgiving(name):
                self._open[name] = WRITERS[name].open(workdir, step, config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Writer."""
        self._each(lambda writer: writer.scalars(step, values))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Writer."""
        self._each(lambda writer: writer.image(step, name, image))

    def close(self) -> None:
        """See Writer."""
        self._each(lambda writer: writer.close())

    def _each(self, tell: Callable[[Writer], None]) -> None:
        for name, writer in list(self._open.items()):
            with self._forgiving(name):
                tell(writer)

    @contextlib.contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not WRITERS[name].package:
                raise
            self._open.pop(name, None)
            said = one_line(error, 200)
            logging.warning("%s failed, and the run goes on without it: %s", name, said)
