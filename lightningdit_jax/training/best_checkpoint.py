"""The weights of a run's best evaluation, kept beside its newest checkpoints."""

import math
from collections.abc import Mapping

from absl import logging

from lightningdit_jax.checkpoint import TrainingCheckpoints, Tree, read_meta
from lightningdit_jax.parallel.multihost import is_main_process

# How the names of numbers begin of which the highest is the best.
HIGHER_IS_BETTER = ("inception_score", "recognised_share", "density_", "coverage_")


def sign_of(metric: str) -> int:
    """1 where lower is better, -1 where higher is."""
    return -1 if metric.startswith(HIGHER_IS_BETTER) else 1


class BestCheckpoint:
    """The weights of the run's best evaluation so far, WORKDIR/best/STEP.

    Best is the lowest, of a metric in HIGHER_IS_BETTER the highest.
    Its meta says which metric it is the best by, and the value: what is on disk is what a
    restarted run compares with. A checkpoint of another metric counts as none, and so, with a line,
    does one that cannot be read.
    """

    def __init__(self, workdir: str, metric: str):
        self.metric, self._sign = metric, sign_of(metric)
        self.value = self._sign * math.inf
        self._checkpoints = TrainingCheckpoints(workdir, keep=1, folder="best", anew=True)
        step = self._checkpoints.latest_step()
        if step is None:
            return
        path = self._checkpoints.directory / str(step)
        try:
            best = read_meta(path)["best"]
            there, value = str(best["metric"]), float(best["value"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if is_main_process():
                logging.warning(
                    "%s does not say what it is the best by (%s); taken for none", path, error
                )
        else:
            if there == metric:
                self.value = value

    def offer(self, step: int, value: float, arrays: Mapping[str, Tree], meta: dict) -> bool:
        """Keeps these weights, and returns True, if the value is better than the one so far.

        All processes must call it with the same value. Complete on return; the former best is
        removed only then. A value that is not a number is never the best.
        """
        if not self._sign * value < self._sign * self.value:
            return False
        latest = self._checkpoints.latest_step()
        if latest is not None and latest >= step:  # of a run that was rolled back since
            self._checkpoints.delete(latest)
        best = {"metric": self.metric, "value": value}
        self._checkpoints.save(step, arrays, {"meta": {**meta, "step": step, "best": best}})
        self._checkpoints.wait()
        self.value = value
        return True

    def close(self) -> None:
        """Releases the writer."""
        self._checkpoints.close()

    def __enter__(self) -> "BestCheckpoint":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """As that of TrainingCheckpoints."""
        self._checkpoints.__exit__(kind, error, traceback)
