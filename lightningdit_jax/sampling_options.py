"""What decides how noise becomes latents: every option, its default, unit and source, once.

config.sample has these keys and ldj.generate takes them by name. A solver says which of them are
its own in its row of flow/solvers.py. Imports nothing of ours, so that a config needs no JAX.
"""

import dataclasses
from typing import Literal

# A number, 0 for none, or "dimension": sqrt(4096 / numbers of a latent). Zheng et al. 2025, RAE,
# arXiv 2510.11690, whose time runs the other way.
TimestepShift = float | Literal["dimension"]

# What changes guidance by cfg_scale, and is without meaning at 1.
OF_GUIDANCE = (
    "cfg_schedule",
    "cfg_power",
    "cfg_optimized_scale",
    "cfg_zero_init_steps",
    "apg_eta",
    "apg_norm_threshold",
    "apg_momentum",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The defaults are the release's solver and grid without guidance or shift.

    Those two are of a model, not of a solver: configs/ have what is published for each.
    """

    num_steps: int = 250  # grid points: 250 is 249 steps
    # "euler", "midpoint", "heun2", "heun3", "rk4", "dopri5", "ucgm", "sde_euler" or "sde_heun"
    solver: str = "euler"
    cfg_scale: float = 1.0  # 1 is no guidance
    cfg_channels: int = 3  # guided channels; 0 is all. Published scales mean 3
    cfg_interval_start: float = 0.0  # no guidance at earlier times
    cfg_interval_end: float = 1.0  # no guidance at later times
    # Of cfg_scale - 1 over time: "constant"; "linear", "cosine" (arXiv 2404.13040), both of mean 1
    # and rising from 0 to 2; "power_cosine" (MDT), rising from 0 to 1
    cfg_schedule: str = "constant"
    cfg_power: float = 1.0  # of "power_cosine": cosine of t ** power; later guidance above 1
    # The unconditional velocity times what brings it nearest to the conditional one: CFG-Zero*,
    # arXiv 2503.18886
    cfg_optimized_scale: bool = False
    cfg_zero_init_steps: int = 0  # the first so many steps leave the noise as it is; CFG-Zero*: 1
    # Share kept of what guidance adds along the predicted data: APG, arXiv 2410.02416; 1 is all,
    # published is 0
    apg_eta: float = 1.0
    apg_norm_threshold: float = 0.0  # longest guidance, as a difference of predicted data; 0 is any
    apg_momentum: float = 0.0  # of guidance over Euler's steps; published below 0
    ig_scale: float = 1.0  # by the generator's second head, arXiv 2512.24176; 1 is none
    ig_interval_start: float = 0.0  # no internal guidance at earlier times
    ig_interval_end: float = 1.0  # no internal guidance at later times
    # t -> s t / (1 + (s - 1) t); 0 is off. "dimension": sqrt(4096 / numbers of a latent)
    timestep_shift: TimestepShift = 0.0
    rtol: float = 1e-3  # of dopri5, relative to the state
    atol: float = 1e-6  # of dopri5
    extrapolation: float = 0.5  # of ucgm; arXiv 2505.07447
    time_warp: tuple[float, ...] = (1.17, 0.8, 1.1)  # of ucgm, instead of timestep_shift
    diffusion: str = "sigma"  # of the SDE: "constant", "sbdm", "sigma", "linear", ...; SiT
    diffusion_norm: float = 1.0
    last_step: str = "mean"  # of the SDE: "mean", "tweedie", "euler" or "none"
    last_step_size: float = 0.04
