"""A trace of some steps for XProf, while a run goes on."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from lightningdit_jax.parallel.multihost import is_main_process


class ProfileWindow:
    """Traces the steps of train.profile_steps, first and last, into WORKDIR/profile.

    Once in a run, on the main process: what its host and its devices do. Steps that came before a
    restart are not traced again. Changes no bit of the run.
    """

    def __init__(self, steps: tuple[int, ...], workdir: str, say: Callable[[str], None]):
        self._first, self._last = steps if steps and is_main_process() else (0, -1)
        self._folder, self._say = epath.Path(workdir) / "profile", say
        self._began: int | None = None
        self._done = False

    def before(self, step: int, dispatched: Any) -> None:
        """Begins where this step is in the window, once what was dispatched earlier is done."""
        if self._began is None and not self._done and self._first <= step <= self._last:
            jax.block_until_ready(dispatched)
            self._began = step
            # The profiler writes to local disks alone.
            self._local = tempfile.TemporaryDirectory() if "://" in str(self._folder) else None
            jax.profiler.start_trace(self._local.name if self._local else str(self._folder))

    def after(self, step: int, metrics: Any) -> None:
        """Ends after the last step of the window. metrics: its results."""
        if self._began is not None and step == self._last:
            jax.block_until_ready(metrics)
            steps = f"steps {self._began:,} to {step:,}"
            self.stop()
            self._say(f"{steps} are traced in {self._folder}: xprof --logdir={self._folder}")

    def stop(self) -> None:
        """Writes what is traced, also of a window that was cut short."""
        if self._began is None:
            return
        jax.profiler.stop_trace()
        self._began, self._done = None, True
        if self._local:
            for path in filter(pathlib.Path.is_file, pathlib.Path(self._local.name).rglob("*")):
                target = self._folder / path.relative_to(self._local.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
            self._local.cleanup()
