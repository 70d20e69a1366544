"""What a model may predict, what that means for the flow, and the loss that trains it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import one_line, unknown_name
from lightningdit_jax.flow.losses import flow_loss
from lightningdit_jax.flow.paths import Path, expand_time, get_path

PREDICTIONS = ("velocity", "noise", "score")
LOSS_WEIGHTS = ("none", "velocity", "likelihood")


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(unknown_name("prediction", prediction, PREDICTIONS))


@dataclasses.dataclass(frozen=True)
class Flow:
    """What a generator was trained to do: its path from noise to data, and what it predicts.

    The defaults are the release's. Raises ValueError for unknown names.
    """

    path: str = "linear"
    prediction: str = "velocity"

    def __post_init__(self):
        get_path(self.path)
        _check(self.prediction)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "Flow":
        """Of a checkpoint's meta; one that says nothing is converted, so of the release.

        Raises ValueError for unknown names.
        """
        try:
            return cls(**{name: str(value) for name, value in meta.get("flow", {}).items()})
        except TypeError as error:
            said = one_line(error)
            raise ValueError(f"a checkpoint's flow is not as it is saved: {said}") from error


def to_velocity(
    path: Path, prediction: str, output: jax.Array, x: jax.Array, t: jax.Array
) -> jax.Array:
    """Velocity of the probability flow from a model's output at (x, t). SiT, sec. 2.

    prediction: what the output is, one of PREDICTIONS. output, x: [B, ...]; t [B] or a scalar. Of
    a noise it is infinite at both ends of the path, of a score at t = 0 unless the path is "vp".
    Raises ValueError for an unknown prediction.
    """
    _check(prediction)
    if prediction == "velocity":
        return output
    if prediction == "noise":
        output = output / -path.sigma(expand_time(t, x))
    return path.velocity_from_score(output, x, t)


def to_score(
    path: Path, prediction: str, output: jax.Array, x: jax.Array, t: jax.Array
) -> jax.Array:
    """Score, the gradient of log p_t at x. Arguments as in `to_velocity`; infinite at the data."""
    _check(prediction)
    if prediction == "score":
        return output
    if prediction == "noise":
        return output / -path.sigma(expand_time(t, x))
    return path.score_from_velocity(output, x, t)


def time_interval(path: Path, prediction: str, eps: float) -> tuple[float, float]:
    """Times to train or sample on, (first, last): [0, 1] without the ends that are infinite.

    eps: what is left out there. A velocity of the linear and the GVP path is finite everywhere, so
    nothing is. The release trains with 1e-3 (VP: 1e-5) and samples with 1e-3.
    Raises ValueError for an unknown prediction.
    """
    _check(prediction)
    first = eps if path.starts_at_pure_noise and prediction != "velocity" else 0.0
    last = 1.0 if path.smooth_at_data and prediction == "velocity" else 1.0 - eps
    return first, last


def train_eps(path: Path) -> float:
    """The release's eps of `time_interval` in training."""
    return 1e-3 if path.smooth_at_data else 1e-5


SAMPLE_EPS = 1e-3


def prediction_loss(
    path: Path,
    prediction: str,
    loss_weight: str,
    output: jax.Array,
    x0: jax.Array,
    x1: jax.Array,
    t: jax.Array,
) -> dict[str, jax.Array]:
    """Losses per sample of a model's output at (x_t, t), float32 {name: [B]}.

    output, noise x0 and data x1: [B, ..., C]; t [B]. A velocity has the terms of `flow_loss`, and
    no weight. A noise has "mse" alone, against x0; so has a score, which is compared as noise,
    -sigma score. loss_weight: "none"; "velocity", the squared error of the velocity that follows;
    "likelihood", the weight of the likelihood bound. Song et al. 2021, arXiv 2101.09258; SiT.
    Raises ValueError for unknown names, and for a weight on a velocity (the release ignores it).
    """
    _check(prediction)
    if loss_weight not in LOSS_WEIGHTS:
        raise ValueError(unknown_name("loss weight", loss_weight, LOSS_WEIGHTS))
    if prediction == "velocity":
        if loss_weight != "none":
            raise ValueError(
                f"loss weight is '{loss_weight}' for the prediction 'velocity'; weights are for "
                "noise and score, expected 'none'"
            )
        return flow_loss(output, path.velocity(x0, x1, t))
    t, output = expand_time(t, x1), output.astype(jnp.float32)
    sigma = path.sigma(t)
    error = output - x0 if prediction == "noise" else output * sigma + x0
    if loss_weight == "velocity":
        error = error * path.score_weight(t) / sigma
    weight = path.score_weight(t) / sigma**2 if loss_weight == "likelihood" else 1.0
    return {"mse": jnp.mean(weight * error**2, axis=range(1, x1.ndim))}
