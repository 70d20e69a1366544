"""The sections of a config that say what a tokenizer learns, and when."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class VAELossConfig:
    """The terms of one batch."""

    reduction: Literal["sum", "mean"]
    logvar: float
    pixel_weight: float
    perceptual_weight: float
    kl_weight: float
    ve_weight: float
    magnitude_weight: float
    disc_weight: float
    adaptive_disc: bool
    disc_loss: Literal["hinge", "vanilla"]
    alignment: str
    alignment_loss: Literal["vf", "pool_align", "cka", "soft_kl"]
    soft_kl_temperature: float
    adaptive_vf: bool
    distmat_weight: float
    cos_weight: float
    reverse_proj: bool


@dataclasses.dataclass(frozen=True)
class StagesConfig:
    """Stages of one run, a value each. Raises ValueError where they do not line up."""

    start: tuple[int, ...]
    disc_start: tuple[int, ...]
    vf_weight: tuple[float, ...]
    distmat_margin: tuple[float, ...]
    cos_margin: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.start or self.start[0] != 0 or sorted(set(self.start)) != list(self.start):
            raise ValueError(f"config.stages.start is {self.start}; expected 0, then rising steps")
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if len(values) != len(self.start):
                raise ValueError(
                    f"config.stages.{field.name} has {len(values)} values for {len(self.start)} "
                    f"stages: {values}; expected one a stage"
                )
            if min(values) < 0:
                raise ValueError(
                    f"config.stages.{field.name} is {values}; expected no value below 0"
                )
