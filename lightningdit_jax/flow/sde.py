"""Sampling by the reverse SDE, whose noise at every step corrects errors of the steps before."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.diffusions import DIFFUSIONS, diffusion
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.flow.paths import Path, get_path
from lightningdit_jax.flow.predictions import SAMPLE_EPS, Flow, time_interval
from lightningdit_jax.flow.runge_kutta import TABLEAUS, evaluation_times, runge_kutta
from lightningdit_jax.flow.solver import NoiseFn, Problem, Solver
from lightningdit_jax.flow.timesteps import even_grid
from lightningdit_jax.sampling_options import SamplingOptions

METHODS = {"euler": "euler", "heun": "heun2"}  # and the tableau of a step
LAST_STEPS = ("mean", "tweedie", "euler", "none")


@dataclasses.dataclass(frozen=True)
class SDEOptions:
    """How to solve the SDE. Raises ValueError for unknown names and sizes out of range.

    method: "euler" (Euler-Maruyama) or "heun" (noise first, then Heun's step: two evaluations).
    diffusion, diffusion_norm: as in `diffusion`.
    last_step: from 1 - last_step_size to the data without noise: "mean", the mean of an Euler
        step; "tweedie", the expected data; "euler", a step of the ODE; "none", no such step.
    """

    method: str = "euler"
    diffusion: str = SamplingOptions.diffusion
    diffusion_norm: float = SamplingOptions.diffusion_norm
    last_step: str = SamplingOptions.last_step
    last_step_size: float = SamplingOptions.last_step_size

    def __post_init__(self):
        for what, name, known in (
            ("SDE method", self.method, METHODS),
            ("diffusion form", self.diffusion, DIFFUSIONS),
            ("last step", self.last_step, LAST_STEPS),
        ):
            if name not in known:
                raise ValueError(unknown_name(what, name, tuple(known)))
        if self.diffusion_norm < 0:
            raise ValueError(f"diffusion_norm is {self.diffusion_norm}; expected 0 or more")
        if self.last_step != "none" and not 0 < self.last_step_size < 1:
            raise ValueError(
                f"last_step_size is {self.last_step_size} with last_step '{self.last_step}'; "
                "expected a number between 0 and 1, or last_step 'none'"
            )


def sde_grid(
    path: Path, prediction: str, num_steps: int, options: SDEOptions, eps: float = SAMPLE_EPS
) -> np.ndarray:
    """Times from noise to data, float32 [num_steps], evenly spaced.

    They end at 1 - last_step_size and leave out eps where the path, what the model predicts, or
    "sbdm" is infinite; the release starts "sbdm" of a velocity at 0 and returns NaN.
    Raises ValueError for a grid of one point, and for Heun's method up to t = 1, where it would
    need the score.
    """
    first, last = time_interval(path, prediction, eps)
    if options.diffusion == "sbdm" and path.starts_at_pure_noise:
        first = eps
    if options.last_step != "none":
        last = 1 - options.last_step_size
    elif options.method == "heun" and last == 1:
        raise ValueError(
            "method 'heun' without a last step looks at t = 1, where the score is infinite; "
            f"expected a last_step of {', '.join(LAST_STEPS[:-1])}, or method 'euler'"
        )
    return even_grid(first, last, num_steps)


def sample_noise(seed: int, indices: jax.Array, shape: tuple[int, ...]) -> NoiseFn:
    """noise(step) -> [B, *shape]: standard normal by seed, global sample index [B] and step.

    Batch size and devices change nothing.
    """
    return lambda step: draw_samples(jax.random.normal, seed, indices, shape, step)


def integrate_sde(
    path: Path,
    velocity_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    grid: jax.Array,
    noise_fn: NoiseFn,
    options: SDEOptions,
    *,
    trajectory: bool = False,
) -> jax.Array:
    """Sample of dx = (v + D score) dt + sqrt(2 D) dW, from noise to data. SiT, sec. 2.4.

    velocity_fn: (x [B, ...], scalar t) -> the flow's velocity [B, ...], whatever the model
        predicts; the score follows from it. x: noise [B, ...]; grid: [N] of `sde_grid`.
    noise_fn: number of the step, from 0 -> standard normal noise [B, ...], as `sample_noise`.
    So N - 1 steps, of one evaluation each or with "heun" two, and one evaluation for a last step.
    All is float32. Returns the sample [B, ...], or with trajectory=True the states after each step
    and after the last step [N, B, ...], as the release lists them: with "none" the end is twice.
    """
    x, grid = x.astype(jnp.float32), jnp.asarray(grid, jnp.float32)
    tableau = TABLEAUS[METHODS[options.method]]

    def velocity_and_score(x, t):
        velocity = velocity_fn(x, t).astype(jnp.float32)
        return velocity, path.score_from_velocity(velocity, x, t)

    def drift(x, t, evaluation):
        velocity, score = velocity_and_score(x, t)
        return velocity + diffusion(path, options.diffusion, t, options.diffusion_norm) * score

    def step(x, inputs):
        t, t_next, number = inputs
        strength = diffusion(path, options.diffusion, t, options.diffusion_norm)
        noise = jnp.sqrt(2 * strength) * jnp.sqrt(t_next - t) * noise_fn(number)
        times = jnp.stack([t, t_next])
        if options.method == "euler":
            x = runge_kutta(tableau, drift, x, times) + noise
        else:
            x = runge_kutta(tableau, drift, x + noise, times)
        return x, x if trajectory else None

    x, states = jax.lax.scan(step, x, (grid[:-1], grid[1:], jnp.arange(len(grid) - 1)))
    if options.last_step != "none":
        t = grid[-1]
        velocity, score = velocity_and_score(x, t)
        if options.last_step == "tweedie":
            x = (x + path.sigma(t) ** 2 * score) / path.alpha(t)
        elif options.last_step == "euler":
            x = x + velocity * options.last_step_size
        else:
            strength = diffusion(path, options.diffusion, t, options.diffusion_norm)
            x = x + (velocity + strength * score) * options.last_step_size
    return jnp.concatenate([states, x[None]]) if trajectory else x


_OPTIONS = tuple(f.name for f in dataclasses.fields(SDEOptions) if f.name != "method")


def _solver(method: str) -> Solver:
    def integrate(problem: Problem, x: jax.Array, grid: jax.Array, *, trajectory=False, **options):
        path, noise_fn, sde = problem.path, problem.noise_fn, SDEOptions(method, **options)
        if path is None or noise_fn is None:
            raise ValueError("a solver of the SDE needs a Problem with its path and its noise")
        return integrate_sde(
            path, problem.velocity_fn, x, grid, noise_fn, sde, trajectory=trajectory
        )

    def times(grid: np.ndarray, **options):
        steps = evaluation_times(TABLEAUS[METHODS[method]], grid)
        return steps if options["last_step"] == "none" else np.append(steps, grid[-1])

    def grid(flow: Flow, num_steps: int, timestep_shift: float, **options):
        path = get_path(flow.path)
        return sde_grid(path, flow.prediction, num_steps, SDEOptions(method, **options))

    return Solver(
        integrate,
        times,
        options=_OPTIONS,
        grid=grid,
        grid_options=_OPTIONS,
        times_by="num_steps and last_step_size",
    )


SOLVERS = {f"sde_{method}": _solver(method) for method in METHODS}
