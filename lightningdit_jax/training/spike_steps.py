"""What a run does with spikes, as train.spikes says."""

from collections.abc import Callable

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.training.nonfinite import kept_checkpoint
from lightningdit_jax.training.spikes import LIMIT, MEDIAN


class SpikesError(FloatingPointError):
    """More steps were spikes than train.max_spikes."""


class SpikeSteps:
    """Counts a run's spikes, says each, and whether to go back to a checkpoint."""

    def __init__(
        self, config: TrainConfig, checkpoints: TrainingCheckpoints, say: Callable[[str], None]
    ):
        self._policy, self._most = config.spikes, config.max_spikes
        self._window = config.spike_window
        self._checkpoints, self._say = checkpoints, say
        self._gone_back_to: int | None = None
        self._first: dict[str, float] = {}  # limits at the first of spikes without a step between
        self.count = 0

    def meet(self, step: int, metrics: dict[str, float]) -> bool | None:
        """Whether to go back for a finite step's sake; None for one that is no spike.

        Takes what is the detector's out of the metrics. Raises SpikesError.
        """
        medians, limits = (_taken(metrics, prefix) for prefix in (MEDIAN, LIMIT))
        spiked = metrics.pop("spike", False)
        if not spiked:
            self._end_of_spikes(step, metrics)
            return None
        self._first = self._first or limits
        self.count += 1
        what = f"step {step:,}: a spike, {self._shown(metrics, medians, limits)}"
        if self.count > self._most:
            self._checkpoints.wait()
            raise SpikesError(
                f"{what}. config.train.max_spikes is {self._most}. "
                f"{kept_checkpoint(self._checkpoints)} is kept. Lower "
                "config.optimizer.learning_rate, clip gradients (config.optimizer.max_grad_norm), "
                "or in a new generator set config.model.use_qknorm=True; a higher "
                "config.train.spike_factor lets more pass"
            )
        goes_back = self._policy == "rollback" and self._goes_back()
        self._say(f"{what}; {'rollback' if goes_back else 'skipped'}")
        return goes_back

    def _goes_back(self) -> bool:
        """Once to each checkpoint: where that did not help, only what follows can."""
        self._checkpoints.wait()
        newest = self._checkpoints.latest_step()
        again, self._gone_back_to = newest == self._gone_back_to, newest
        return not again

    def _end_of_spikes(self, step: int, metrics: dict[str, float]) -> None:
        above = [name for name, limit in self._first.items() if metrics[name] > limit]
        self._first = {}
        if above:
            what = ", ".join(f"{name} {metrics[name]:.4g}" for name in above)
            self._say(
                f"step {step:,}: {what}: a new level, now that half of the window of "
                f"{self._window} steps is of it"
            )

    def _shown(
        self, metrics: dict[str, float], medians: dict[str, float], limits: dict[str, float]
    ) -> str:
        texts = [
            f"{name} {metrics[name]:.4g} is above {limit:.4g}, the median of {self._window} steps "
            f"{medians[name]:.4g}"
            for name, limit in limits.items()
            if metrics[name] > limit
        ]
        return ", ".join(texts)


def _taken(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    names = [name for name in metrics if name.startswith(prefix)]
    return {name.removeprefix(prefix): metrics.pop(name) for name in names}
