"""A step that is not finite: whether batch or model made it so, what helps, what is done."""

from collections.abc import Callable, Mapping, Sequence

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.errors import listed

_SHOWN = 5


class NonFiniteError(FloatingPointError):
    """A loss or gradient was NaN or infinite and the policy says stop."""


class NonFiniteSteps:
    """Counts a run's steps that were not finite, and does with each what train.nonfinite says."""

    def __init__(
        self, config: TrainConfig, checkpoints: TrainingCheckpoints, say: Callable[[str], None]
    ):
        self._policy, self._most = config.nonfinite, config.max_nonfinite
        self._checkpoints, self._say = checkpoints, say
        self.count = 0

    def meet(self, step: int, metrics: Mapping[str, float], unfit: Sequence[str]) -> bool:
        """Says what happened to a step; whether the run has to go back to its checkpoint.

        unfit: the records of its batch that no step stays finite with. Raises NonFiniteError under
        the policy `stop`, and after train.max_nonfinite steps.
        """
        self.count += 1
        advice = advice_for(unfit, self._policy)
        what = (
            f"step {step:,}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}: "
            f"not finite, {cause_of(unfit)}"
        )
        if self._policy == "stop" or self.count > self._most:
            self._checkpoints.wait()
            most = f" config.train.max_nonfinite is {self._most}."
            count = "" if self._policy == "stop" else most
            raise NonFiniteError(
                f"{what}.{count} {kept_checkpoint(self._checkpoints)} is kept. "
                f"Restarting repeats this step; {advice}"
            )
        self._say(f"{what}. {self._policy}; {advice}")
        return self._policy == "rollback"


def kept_checkpoint(checkpoints: TrainingCheckpoints) -> str:
    """The newest checkpoint in words."""
    newest = checkpoints.latest_step()
    return "No checkpoint" if newest is None else f"The checkpoint of step {newest:,}"


def cause_of(unfit: Sequence[str]) -> str:
    """What made a step not finite. unfit: the records of its batch that do, by name."""
    if not unfit:
        return "while its batch is, so it is the model"
    return f"because its batch is not: {listed(unfit, _SHOWN, '; ')}"


def advice_for(unfit: Sequence[str], policy: str) -> str:
    """What to do about it, where train.nonfinite is `policy`."""
    if unfit:
        advice = "extract these latents again (--mode=extract) after a look at their images"
        if policy == "stop":
            advice += ", or go on without such batches: --config.train.nonfinite=skip"
        return advice
    other = "--config.train.nonfinite=skip or rollback, " if policy == "stop" else ""
    return (
        f"try {other}gradient clipping (--config.optimizer.max_grad_norm), or for a generator "
        "--config.model.use_qknorm=True in a new run"
    )
