"""How samples are drawn: solver, time grid, guidance, labels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from lightningdit_jax.config import SampleConfig
from lightningdit_jax.data.class_names import class_number, split_list
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.guidance import guidance_is_on
from lightningdit_jax.flow.guidance_rules import SCHEDULES
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.flow.solver import Solver, look_up
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.flow.timesteps import shift_for
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions
from lightningdit_jax.whole_numbers import whole_number

_MOST = 2**31 - 1  # of a whole number


@dataclasses.dataclass(frozen=True)
class Method:
    """The choices of a Sampling that a program is compiled for; its other fields are numbers."""

    solver: str
    guided: bool
    guided_internally: bool
    cfg_channels: int
    cfg_schedule: str
    cfg_optimized_scale: bool
    projected: bool  # by APG
    limited: bool  # by its threshold
    remembers: bool  # its last step, for momentum
    options: tuple[tuple[str, Any], ...]  # the solver's own, by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(SamplingOptions):
    """SamplingOptions that fit each other, and what follows from them.

    Raises ValueError for an unknown solver and values out of range.
    """

    def __post_init__(self):
        solver = self.row
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                least = 2 if field.name == "num_steps" else 0
                whole_number(field.name, value, least, _MOST)
            elif field.type is float and not _is_finite(value):
                raise ValueError(f"{field.name} is {value!r}; expected a finite number")
            elif field.type is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name} is {value!r}; expected True or False")
        for kind in ("cfg", "ig"):
            start, end = (getattr(self, f"{kind}_interval_{edge}") for edge in ("start", "end"))
            if end < start:
                raise ValueError(
                    f"guidance ends at {end}, before it begins at {start}; expected "
                    f"{kind}_interval_start <= {kind}_interval_end"
                )
        if not _is_finite(self.timestep_shift) and self.timestep_shift != "dimension":
            raise ValueError(
                f"timestep_shift is {self.timestep_shift!r}; expected a finite number, or "
                "'dimension'"
            )
        if self.cfg_schedule not in SCHEDULES:
            raise ValueError(unknown_name("guidance schedule", self.cfg_schedule, SCHEDULES))
        if self.cfg_power <= 0:
            raise ValueError(f"cfg_power is {self.cfg_power}; expected a number above 0")
        if self.apg_norm_threshold < 0:
            raise ValueError(
                f"apg_norm_threshold is {self.apg_norm_threshold}; expected a positive number, or "
                "0 for none"
            )
        if self.is_guided and self.apg_momentum and self.solver != "euler":
            raise ValueError(
                f"apg_momentum is {self.apg_momentum} with the solver {self.solver}; momentum is "
                "from step to step of one evaluation each: choose the solver 'euler', or set "
                "apg_momentum to 0"
            )
        if solver.times_by and self.timestep_shift:
            raise ValueError(
                f"timestep_shift is {self.timestep_shift}, but the solver {self.solver} has times "
                f"of its own: {solver.times_by}; set timestep_shift to 0"
            )
        solver.check(**self._values(solver.options))
        self.for_latents(1).grid(self._some_flow())

    @classmethod
    def of(cls, config: SampleConfig) -> "Sampling":
        """The part of config.sample that decides it."""
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})

    @property
    def row(self) -> Solver:
        """The solver."""
        return look_up(SOLVERS, self.solver)

    def for_latents(self, numbers: int) -> "Sampling":
        """The same with a number for a timestep shift by "dimension", of latents of so many."""
        if self.timestep_shift != "dimension":
            return self
        return dataclasses.replace(self, timestep_shift=shift_for(self.timestep_shift, numbers))

    def grid(self, flow: Flow) -> np.ndarray:
        """Times from noise to data, without the steps that guidance leaves out. [num_steps or less]

        Raises ValueError where solver and flow differ, and where no step is left.
        """
        solver = self.row
        if solver.path and flow.path != solver.path:
            raise ValueError(
                f"the solver {self.solver} needs the path '{solver.path}', the generator's is "
                f"'{flow.path}'; choose another solver"
            )
        options = self._values(solver.grid_options)
        times = solver.grid(flow, self.num_steps, self.timestep_shift, **options)
        # Steps along a velocity of 0 leave the noise where it is.
        left_out = self.cfg_zero_init_steps if self.is_guided else 0
        if left_out > len(times) - 2:
            raise ValueError(
                f"cfg_zero_init_steps is {left_out} of {len(times) - 1} steps; expected fewer"
            )
        return times[left_out:]

    @property
    def is_guided(self) -> bool:
        """Whether a second velocity is ever needed."""
        return self.cfg_scale != 1

    @property
    def is_guided_internally(self) -> bool:
        """Whether the generator's second head is ever asked."""
        return self.ig_scale != 1

    def evaluations(self) -> int | None:
        """Times at which the velocity of an image is asked for; None: the solver finds them."""
        times = self._evaluation_times(self._some_flow())
        return None if times is None else len(times)

    def guided_evaluations(self, flow: Flow) -> int | None:
        """How many of them need a second velocity, beside the conditional one."""
        if not self.is_guided:
            return 0
        times = self._evaluation_times(flow)
        if times is None:
            return None
        start, end = np.float32(self.cfg_interval_start), np.float32(self.cfg_interval_end)
        return int(np.sum(guidance_is_on(times, start, end)))

    def forward_passes(self, flow: Flow) -> int | None:
        """Velocities computed for an image: evaluations and guided_evaluations together."""
        count, guided = self.evaluations(), self.guided_evaluations(flow)
        return None if count is None or guided is None else count + guided

    def method(self) -> Method:
        """What a program is compiled for."""
        options = tuple(self._values(self.row.options).items())
        guided = self.is_guided
        limited, remembers = (
            guided and value != 0 for value in (self.apg_norm_threshold, self.apg_momentum)
        )
        return Method(
            solver=self.solver,
            guided=guided,
            guided_internally=self.is_guided_internally,
            cfg_channels=self.cfg_channels,
            cfg_schedule=self.cfg_schedule if guided else "constant",
            cfg_optimized_scale=guided and self.cfg_optimized_scale,
            projected=limited or remembers or (guided and self.apg_eta != 1),
            limited=limited,
            remembers=remembers,
            options=options,
        )

    def knobs(self, flow: Flow) -> dict[str, Any]:
        """The numbers that can change without compiling again."""
        return {
            "grid": self.grid(flow),
            "cfg_scale": np.float32(self.cfg_scale),
            **{
                name: np.float32(getattr(self, name))
                for name in ("cfg_power", "apg_eta", "apg_norm_threshold", "apg_momentum")
            },
            "interval": np.array([self.cfg_interval_start, self.cfg_interval_end], np.float32),
            "ig_scale": np.float32(self.ig_scale),
            "ig_interval": np.array([self.ig_interval_start, self.ig_interval_end], np.float32),
        }

    def _some_flow(self) -> Flow:
        """One that the solver solves."""
        return Flow(self.row.path) if self.row.path else Flow()

    def _evaluation_times(self, flow: Flow) -> np.ndarray | None:
        """[evaluations], None where the solver chooses them as it goes."""
        solver = self.row
        if solver.evaluation_times is None:
            return None
        options = self._values(solver.options)
        return np.asarray(solver.evaluation_times(self.grid(flow), **options))

    def _values(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def check_given(given: Mapping[str, Any]) -> None:
    """Raises ValueError where one of these options is one that the others leave unread.

    Of another solver than theirs, or of guidance where there is none. Or where there is no such
    option, or solver, naming the nearest. given: values by name, defaults left out.
    """
    known = tuple(f.name for f in dataclasses.fields(SamplingOptions))
    solver, scale, schedule = (
        given.get(name, getattr(SamplingOptions, name))
        for name in ("solver", "cfg_scale", "cfg_schedule")
    )
    own = look_up(SOLVERS, solver).own_options
    of_some = {name for row in SOLVERS.values() for name in row.own_options}
    for name in given:
        if name not in known:
            raise ValueError(unknown_name("sampling option", name, known))
        if name in of_some and name not in own:
            readers = [other for other, row in SOLVERS.items() if name in row.own_options]
            raise ValueError(
                f"{name} is given, but the solver '{solver}' does not read it; leave it out, or "
                f"choose a solver that does: {', '.join(readers)}"
            )
        if name in OF_GUIDANCE and scale == 1:
            raise ValueError(
                f"{name} is given, but cfg_scale is 1, which guides by no label; leave it out, or "
                "set cfg_scale to another number"
            )
        if name == "cfg_power" and schedule != "power_cosine":
            raise ValueError(
                f"cfg_power is given, but cfg_schedule is '{schedule}', which does not read it; "
                "leave it out, or choose 'power_cosine'"
            )


def choose_labels(
    mode: str, num_samples: int, num_classes: int, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Labels of samples 0..N-1, int32 [N].

    mode: "random" (uniform, as in the published numbers), "balanced" (0, 1, 2, ... in turn), or a
    comma-separated list, repeated to length, of class numbers and of names in class_names, which
    has them by number; names with commas in double quotes. Raises ValueError for anything else, and
    as class_number.
    """
    if mode == "random":
        return np.random.default_rng(seed).integers(num_classes, size=num_samples, dtype=np.int32)
    if mode == "balanced":
        return np.arange(num_samples, dtype=np.int32) % num_classes
    expected = "'random', 'balanced' or a list as '207,387'"
    given = [
        class_number("sample.labels", part, class_names, expected)
        for part in split_list("sample.labels", mode)
    ]
    if min(given) < 0 or max(given) >= num_classes:
        raise ValueError(
            f"config.sample.labels reach from {min(given)} to {max(given)}; "
            f"expected 0 to {num_classes - 1}"
        )
    return np.resize(np.array(given, np.int32), num_samples)
