"""What a model may predict, what that means for the flow, and the loss that trains it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import one_line, unknown_name
from lightningdit_jax.flow.losses import flow_loss
from lightningdit_jax.flow.paths import Path, expand_time, get_path

PREDICTIONS = ("velocity", "noise", "score", "data")
LOSS_WEIGHTS = ("none", "velocity", "noise", "data", "likelihood")
# What divides a model's data in the place of a smaller sigma. Li & He 2025, arXiv 2511.13720.
DATA_EPS = 0.05


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
    a noise it is infinite at both ends of the path, of a score at t = 0 unless the path is "vp". Of
    data, where sigma is below DATA_EPS, it is sigma / DATA_EPS times the flow's, as in JiT's code
    (arXiv 2511.13720) in training and sampling alike.
    Raises ValueError for an unknown prediction.
    """
    _check(prediction)
    if prediction == "velocity":
        return output
    if prediction == "data":
        return path.velocity_from_data(output, x, t, DATA_EPS)
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
    if prediction == "data":
        t = expand_time(t, x)
        return (path.alpha(t) * output - x) / path.sigma(t) ** 2
    return path.score_from_velocity(output, x, t)


def time_interval(path: Path, prediction: str, eps: float) -> tuple[float, float]:
    """Times to train or sample on, (first, last): [0, 1] without the ends that are infinite.

    eps: what is left out there. A velocity of the linear and the GVP path is finite everywhere, and
    so is that of data, so nothing is. The release trains with 1e-3 (VP: 1e-5) and samples with
    1e-3. Raises ValueError for an unknown prediction.
    """
    _check(prediction)
    is_finite = prediction in ("velocity", "data")
    first = eps if path.starts_at_pure_noise and not is_finite else 0.0
    last = 1.0 if path.smooth_at_data and is_finite else 1.0 - eps
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

    output, noise x0 and data x1: [B, ..., C]; t [B]. "mse" is a squared error: of the prediction
    where loss_weight is "none", of the "velocity", "noise" or "data" that follows from it (Li & He
    2025, arXiv 2511.13720, table 1: all nine pairs), or of a noise or a score with the weight of
    the "likelihood" bound (Song et al. 2021, arXiv 2101.09258; SiT). A score is compared as noise,
    -sigma score. "cosine" stands beside the squared error of a velocity, as in `flow_loss`.
    Raises ValueError for unknown names, and for the likelihood of a velocity or of data.
    """
    _check(prediction)
    if loss_weight not in LOSS_WEIGHTS:
        raise ValueError(unknown_name("loss weight", loss_weight, LOSS_WEIGHTS))
    if loss_weight == "likelihood" and prediction not in ("noise", "score"):
        raise ValueError(
            f"loss weight is 'likelihood' for the prediction '{prediction}'; that bound is of "
            "'noise' and 'score'"
        )
    space = prediction if loss_weight == "none" else loss_weight
    if prediction == space == "velocity":
        return flow_loss(output, path.velocity(x0, x1, t))
    output = output.astype(jnp.float32)
    error = _error(path, prediction, output, x0, x1, t)
    weight = _error_weight(path, prediction, space, expand_time(t, x1))
    terms = {"mse": jnp.mean(weight * error**2, axis=range(1, x1.ndim))}
    if space == "velocity":
        velocity = to_velocity(path, prediction, output, path.interpolate(x0, x1, t), t)
        terms["cosine"] = flow_loss(velocity, path.velocity(x0, x1, t))["cosine"]
    return terms


def _error(
    path: Path, prediction: str, output: jax.Array, x0: jax.Array, x1: jax.Array, t: jax.Array
) -> jax.Array:
    """Of what is predicted; of a score as noise."""
    if prediction == "velocity":
        return output - path.velocity(x0, x1, t)
    if prediction == "data":
        return output - x1
    return output - x0 if prediction == "noise" else output * path.sigma(expand_time(t, x1)) + x0


def _error_weight(path: Path, prediction: str, space: str, t: jax.Array) -> jax.Array | float:
    """What the squared error of a prediction is times, to be that in another space.

    Where x = alpha x1 + sigma x0 stays, errors of data, noise and velocity are to each other as
    sigma, alpha and the Wronskian.
    """
    if space == "likelihood":
        return path.score_weight(t) / path.sigma(t) ** 2
    # A score is compared as noise.
    own, space = (name.replace("score", "noise") for name in (prediction, space))
    if own == space:
        return 1.0
    sizes = {"data": path.sigma, "noise": path.alpha, "velocity": path.wronskian}
    size = sizes[own](t)
    if own == "data":
        size = jnp.maximum(size, DATA_EPS)
    return (sizes[space](t) / size) ** 2
