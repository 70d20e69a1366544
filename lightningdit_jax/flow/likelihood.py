"""Log-likelihood of data under the flow, by the change of variables along its ODE."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.flow.dopri5 import dopri5
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.flow.runge_kutta import TABLEAUS, runge_kutta
from lightningdit_jax.flow.solver import VelocityFn, look_up
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.sampling_options import SamplingOptions

ProbeFn = Callable[[jax.Array], jax.Array]


def rademacher_probes(seed: int, indices: jax.Array, shape: tuple[int, ...]) -> ProbeFn:
    """probe(evaluation) -> [B, *shape] of -1 and 1, by seed, global sample index [B] and number."""

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.rademacher(key, shape, jnp.float32)

    return lambda evaluation: draw_samples(draw, seed, indices, shape, evaluation)


def normal_log_density(x: jax.Array) -> jax.Array:
    """Log density of the standard normal distribution. x: [B, ...] -> [B], in nats."""
    axes = tuple(range(1, x.ndim))
    return -0.5 * jnp.sum(x**2 + jnp.log(2 * jnp.pi), axis=axes)


def log_likelihood(
    solver: str,
    velocity_fn: VelocityFn,
    x: jax.Array,
    grid: jax.Array,
    probe_fn: ProbeFn,
    *,
    rtol: float = SamplingOptions.rtol,
    atol: float = SamplingOptions.atol,
) -> tuple[jax.Array, jax.Array]:
    """Estimate of log p(x) in nats [B], and the noise that x comes from [B, ...].

    log p(x) = log N(noise) - integral of div v along the flow; Chen et al. 2018. div v is estimated
    without bias by probe . (dv/dx) probe; Hutchinson, as in FFJORD, arXiv 1810.01367.
    solver: a Runge-Kutta method, or "dopri5" with rtol and atol. velocity_fn: as in `integrate`.
    x: data [B, ...].
    grid: [N] falling times, data first: `time_grid(n)[::-1]`.
    probe_fn: number of the evaluation -> entries of mean 0 and covariance 1, [B, ...], as
        `rademacher_probes`. "dopri5" asks for one probe only, number 0: it cannot control the error
        of an integrand that is noise.
    velocity_fn is differentiated in reverse, once per evaluation. All is float32.
    Raises ValueError for an unknown solver, one of another family, and a grid that rises.
    """
    if solver not in TABLEAUS and solver != "dopri5":
        look_up(SOLVERS, solver)
        raise ValueError(
            f"solver '{solver}' has no likelihood; expected one of {', '.join(TABLEAUS)}, dopri5"
        )
    if isinstance(grid, np.ndarray) and grid[0] < grid[-1]:
        raise ValueError(
            f"the time grid rises from {grid[0]} to {grid[-1]}; the likelihood of data needs one "
            "that falls from data (1) to noise (0), as time_grid(n)[::-1]"
        )

    def field(state, t, evaluation):
        probe = probe_fn(jnp.int32(0) if solver == "dopri5" else evaluation)
        velocity, pull_back = jax.vjp(lambda x: velocity_fn(x, t).astype(jnp.float32), state[0])
        (product,) = pull_back(probe)
        return velocity, jnp.sum(probe * product, axis=tuple(range(1, probe.ndim)))

    state = x, jnp.zeros(x.shape[0], jnp.float32)
    if solver == "dopri5":
        noise, divergence = dopri5(field, state, grid, rtol=rtol, atol=atol)
    else:
        noise, divergence = runge_kutta(TABLEAUS[solver], field, state, grid)
    # The grid falls, so the integral over it is minus the one from noise to data.
    return normal_log_density(noise) + divergence, noise
