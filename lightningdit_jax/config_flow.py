"""The section of a config that says what a generator learns, and which of it fits together."""

import dataclasses
from typing import Literal

from lightningdit_jax.sampling_options import TimestepShift


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Training of the generator. Raises ValueError for a loss that the prediction does not have."""

    path: Literal["linear", "gvp", "vp"]
    prediction: Literal["velocity", "noise", "score", "data"]
    loss_weight: Literal["none", "velocity", "noise", "data", "likelihood"]
    timesteps: Literal["logit_normal", "uniform"]
    timestep_shift: TimestepShift
    logit_mean: float
    logit_std: float
    uniform_from_step: int
    cosine_weight: float
    aux_loss_weight: float

    def __post_init__(self) -> None:
        if self.loss_weight == "likelihood" and self.prediction not in ("noise", "score"):
            raise ValueError(
                f"config.flow.loss_weight is 'likelihood' for the prediction '{self.prediction}'; "
                "that weight is for 'noise' and 'score'; expected 'none', 'velocity', 'noise' or "
                "'data'"
            )
        loss = self.prediction if self.loss_weight == "none" else self.loss_weight
        if loss != "velocity" and self.cosine_weight != 0:
            raise ValueError(
                f"config.flow.cosine_weight is {self.cosine_weight}, but the cosine loss is of "
                f"velocities and the squared error of '{loss}'; set it to 0, or "
                "config.flow.loss_weight to 'velocity'"
            )
