"""How samples are drawn: solver, time grid, guidance, labels."""

import dataclasses
import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from lightningdit_jax.config import SampleConfig
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.guidance import guidance_is_on
from lightningdit_jax.flow.ode import SOLVERS as ODE_SOLVERS
from lightningdit_jax.flow.ode import evaluations
from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.flow.predictions import SAMPLE_EPS, Flow, time_interval
from lightningdit_jax.flow.runge_kutta import TABLEAUS, stage_times
from lightningdit_jax.flow.sde import SDEOptions, sde_grid
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.flow.ucgm import ucgm_grid
from lightningdit_jax.whole_numbers import whole_number

SDE_SOLVERS = {"sde_euler": "euler", "sde_heun": "heun"}  # and their methods in SDEOptions
SOLVERS = (*ODE_SOLVERS, *SDE_SOLVERS)
# Solvers whose times no shift warps, and what decides them.
UNSHIFTED = {"ucgm": "time_warp"} | dict.fromkeys(SDE_SOLVERS, "num_steps and last_step_size")

_MOST = 2**31 - 1  # of a whole number
_NUMBER = re.compile(r"-?[0-9]+")


@dataclasses.dataclass(frozen=True)
class Method:
    """The choices of a Sampling that a program is compiled for; its other fields are numbers."""

    solver: str
    guided: bool
    cfg_channels: int
    rtol: float
    atol: float
    extrapolation: float
    diffusion: str
    diffusion_norm: float
    last_step: str
    last_step_size: float

    def sde(self) -> SDEOptions | None:
        """How to solve the SDE; None for a solver of the ODE."""
        if self.solver not in SDE_SOLVERS:
            return None
        return SDEOptions(
            method=SDE_SOLVERS[self.solver],
            diffusion=self.diffusion,
            diffusion_norm=self.diffusion_norm,
            last_step=self.last_step,
            last_step_size=self.last_step_size,
        )


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What decides how noise becomes latents. The fields are the keys of config.sample.

    num_steps counts grid points, so 250 are 249 steps. cfg_channels: guided channels, 0 is all.
    Guidance is on from cfg_interval_start to cfg_interval_end. timestep_shift 0 is off.
    rtol, atol: of dopri5. extrapolation, time_warp: of ucgm, which has a time grid of its own.
    diffusion, diffusion_norm, last_step, last_step_size: of sde_euler and sde_heun, as in
    SDEOptions. Raises ValueError for an unknown solver and values out of range.
    """

    num_steps: int = 250
    solver: str = "euler"
    cfg_scale: float = 1.0
    cfg_channels: int = 3
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 1.0
    timestep_shift: float = 0.0
    rtol: float = 1e-3
    atol: float = 1e-6
    extrapolation: float = 0.5
    time_warp: tuple[float, ...] = (1.17, 0.8, 1.1)
    diffusion: str = "sigma"
    diffusion_norm: float = 1.0
    last_step: str = "mean"
    last_step_size: float = 0.04

    def __post_init__(self):
        if self.solver not in SOLVERS:
            raise ValueError(unknown_name("solver", self.solver, SOLVERS))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                least = 2 if field.name == "num_steps" else 0
                whole_number(field.name, value, least, _MOST)
            elif field.type is float and not (isinstance(value, Real) and math.isfinite(value)):
                raise ValueError(f"{field.name} is {value!r}; expected a finite number")
        if self.rtol <= 0 or self.atol < 0:
            raise ValueError(
                f"rtol is {self.rtol} and atol {self.atol}; expected rtol above 0, atol at least 0"
            )
        if self.cfg_interval_end < self.cfg_interval_start:
            raise ValueError(
                f"guidance ends at {self.cfg_interval_end}, before it begins at "
                f"{self.cfg_interval_start}; expected cfg_interval_start <= cfg_interval_end"
            )
        if len(self.time_warp) != 3:
            raise ValueError(f"time_warp is {self.time_warp}; expected three numbers")
        if self.solver in UNSHIFTED and self.timestep_shift:
            raise ValueError(
                f"timestep_shift is {self.timestep_shift}, but the solver {self.solver} has times "
                f"of its own: {UNSHIFTED[self.solver]}; set timestep_shift to 0"
            )
        self.grid(Flow())

    @classmethod
    def of(cls, config: SampleConfig) -> "Sampling":
        """The part of config.sample that decides it."""
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})

    def grid(self, flow: Flow) -> np.ndarray:
        """Times from noise to data. [num_steps]. Raises ValueError where solver and flow differ."""
        path, sde = get_path(flow.path), self.method().sde()
        if sde is not None:
            return sde_grid(path, flow.prediction, self.num_steps, sde)
        if self.solver == "ucgm":
            if flow.path != "linear":
                raise ValueError(
                    f"the solver ucgm needs the path 'linear', the generator's is '{flow.path}'; "
                    "choose another solver"
                )
            return ucgm_grid(self.num_steps, self.time_warp)
        interval = time_interval(path, flow.prediction, SAMPLE_EPS)
        return time_grid(self.num_steps, self.timestep_shift, interval)

    @property
    def is_guided(self) -> bool:
        """Whether a second velocity is ever needed."""
        return self.cfg_scale != 1

    def evaluations(self) -> int | None:
        """Times at which the velocity of an image is asked for; None: as many as dopri5 takes."""
        count = evaluations(self._steps_like(), self.num_steps)
        return count + 1 if self._has_last_step() else count

    def guided_evaluations(self, flow: Flow) -> int | None:
        """How many of them need a second velocity, beside the conditional one."""
        if not self.is_guided:
            return 0
        if self.solver == "dopri5":
            return None
        interval = np.float32([self.cfg_interval_start, self.cfg_interval_end])
        return int(np.sum(guidance_is_on(self._evaluation_times(flow), *interval)))

    def forward_passes(self, flow: Flow) -> int | None:
        """Velocities computed for an image: evaluations and guided_evaluations together."""
        if self.solver == "dopri5":
            return None
        return self.evaluations() + self.guided_evaluations(flow)

    def method(self) -> Method:
        """What a program is compiled for."""
        fields = {f.name for f in dataclasses.fields(Method)} - {"guided"}
        return Method(guided=self.is_guided, **{name: getattr(self, name) for name in fields})

    def knobs(self, flow: Flow) -> dict[str, Any]:
        """The numbers that can change without compiling again."""
        return {
            "grid": self.grid(flow),
            "cfg_scale": np.float32(self.cfg_scale),
            "interval": np.float32([self.cfg_interval_start, self.cfg_interval_end]),
        }

    def _evaluation_times(self, flow: Flow) -> np.ndarray:
        """Of a solver that does not choose them itself. [evaluations]."""
        grid, nodes = self.grid(flow), TABLEAUS[self._steps_like()].nodes
        times = np.ravel(stage_times(nodes, grid[:-1], grid[1:]))
        return np.append(times, grid[-1]) if self._has_last_step() else times

    def _steps_like(self) -> str:
        """A solver of the ODE that looks at the velocity at the same times of a step."""
        return {"sde_euler": "euler", "sde_heun": "heun2", "ucgm": "euler"}.get(
            self.solver, self.solver
        )

    def _has_last_step(self) -> bool:
        return self.solver in SDE_SOLVERS and self.last_step != "none"


def choose_labels(
    mode: str, num_samples: int, num_classes: int, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Labels of samples 0..N-1, int32 [N].

    mode: "random" (uniform, as in the published numbers), "balanced" (0, 1, 2, ... in turn), or a
    comma-separated list, repeated to length, of class numbers and of names in class_names, which
    has them by number. "name:7" is the class called 7. Raises ValueError for anything else, and for
    a number that is also the name of another class.
    """
    if mode == "random":
        return np.random.default_rng(seed).integers(num_classes, size=num_samples, dtype=np.int32)
    if mode == "balanced":
        return np.arange(num_samples, dtype=np.int32) % num_classes
    given = [_label(part.strip(), class_names) for part in mode.split(",")]
    if min(given) < 0 or max(given) >= num_classes:
        raise ValueError(
            f"config.sample.labels reach from {min(given)} to {max(given)}; "
            f"expected 0 to {num_classes - 1}"
        )
    return np.resize(np.array(given, np.int32), num_samples)


def _label(text: str, class_names: Sequence[str]) -> int:
    """The number of a class that is given by number or name."""
    by_name = {name: number for number, name in enumerate(class_names)}
    if _NUMBER.fullmatch(text):
        if by_name.get(text, int(text)) != int(text):
            raise ValueError(
                f"config.sample.labels holds '{text}', a class number and also the name of class "
                f"number {by_name[text]}; write 'name:{text}' for the latter, and the other by its "
                "name in the same way"
            )
        return int(text)
    name = text.removeprefix("name:")
    if name in by_name:
        return by_name[name]
    if class_names:
        raise ValueError(f"config.sample.labels: {unknown_name('class', name, class_names)}")
    raise ValueError(
        f"config.sample.labels is '{text}'; expected 'random', 'balanced' or a list as '207,387' "
        "(the generator's checkpoint knows no names of classes)"
    )
