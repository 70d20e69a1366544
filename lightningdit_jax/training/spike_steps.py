"""What a run does with spikes, as train.spikes says."""

from collections.abc import Callable

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.training.nonfinite import kept_checkpoint
from lightningdit_jax.training.spikes import IN_A_ROW, LIMIT, MEDIAN


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
        self._passing = False  # since steps above their limit are taken
        self.count = 0

    def meet(self, step: int, metrics: dict[str, float]) -> bool | None:
        """Whether to go back for a finite step's sake; None for one that is no spike.

        Takes what is the detector's out of the metrics. Raises SpikesError.
        """
        medians, limits = (_taken(metrics, prefix) for prefix in (MEDIAN, LIMIT))
        above = [name for name, limit in limits.items() if metrics[name] > limit]
        seen = ", ".join(
            f"{name} {metrics[name]:.4g} is above {limits[name]:.4g}, the median of "
            f"{self._window} steps {medians[name]:.4g}"
            for name in above
        )
        if not metrics.pop("spike", False):
            if above and not self._passing:
                self._say(
                    f"step {step:,}: {seen}; taken, as {IN_A_ROW} in a row are no bad batch but "
                    "the weights or a new level"
                )
            self._passing = bool(above)
            return None
        self.count += 1
        what = f"step {step:,}: a spike, {seen}"
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


def _taken(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    names = [name for name in metrics if name.startswith(prefix)]
    return {name.removeprefix(prefix): metrics.pop(name) for name in names}
