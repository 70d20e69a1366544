"""What is said of a step that is not finite: whether batch or model made it so, and what helps."""

from collections.abc import Sequence

from lightningdit_jax.errors import listed

_SHOWN = 5


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
