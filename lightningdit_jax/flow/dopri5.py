"""Dormand and Prince's method of order 5 with adaptive steps, as torchdiffeq has it."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lightningdit_jax.flow.runge_kutta import Tableau, advance, float32, run_stages
from lightningdit_jax.flow.solver import Field, Problem, Solver, State

# Dormand & Prince 1980; the error weights are Shampine's pair, 1986. The last stage is the slope
# at the end of the step, and so the first one of the next.
TABLEAU = Tableau(
    (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
)
ERROR_WEIGHTS = (
    35 / 384 - 1951 / 21600,
    0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    12231 / 42400 - 2187 / 6784,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
MIDPOINT_WEIGHTS = (
    6025192743 / 30085553152 / 2,
    0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
ORDER = 5
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
MAX_ATTEMPTS = 10_000  # of one integration; a flow that needs more is broken


class _Step(NamedTuple):
    """What is known after a step: the state, its slope and time, and a polynomial behind it."""

    x: State  # at `end`
    slope: State  # at (x, end)
    start: jax.Array
    end: jax.Array
    size: jax.Array  # of the next step
    polynomial: tuple[State, ...]  # of (t - start) / (end - start), by rising power
    attempts: jax.Array


def _norm(x: State, tolerance: State) -> jax.Array:
    """Root mean square of x / tolerance; of several arrays the largest."""
    norms = jax.tree.map(lambda x, s: jnp.sqrt(jnp.mean((x / s) ** 2)), x, tolerance)
    return jnp.max(jnp.stack(jax.tree.leaves(norms)))


def _probe_size(x, slope, tolerance):
    """Size of an Euler step short enough to measure how fast the slope changes."""
    size, speed = _norm(x, tolerance), _norm(slope, tolerance)
    return jnp.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)


def _first_size(slope, slope_after, probe, tolerance):
    """Size of the first step, from the slopes before and after the probe."""
    speed = _norm(slope, tolerance)
    change = _norm(jax.tree.map(jnp.subtract, slope_after, slope), tolerance) / probe
    size = (0.01 / jnp.maximum(speed, change)) ** (1 / ORDER)
    still = (speed <= 1e-15) & (change <= 1e-15)
    return jnp.minimum(100 * probe, jnp.where(still, jnp.maximum(1e-6, 1e-3 * probe), size))


def _next_size(size, error):
    """Size that should bring the error to SAFETY**5 of the tolerance, within bounds."""
    least = jnp.where(error < 1, 1.0, SHRINK)
    factor = jnp.minimum(GROW, jnp.maximum(SAFETY / error ** (1 / ORDER), least))
    return size * jnp.where(error == 0, GROW, factor)


def _fit(x0, x1, middle, slope0, slope1, h):
    """Polynomial of degree 4 through both ends, the middle and the slopes, by rising power."""

    def fit(x0, x1, middle, f0, f1):
        return (
            x0,
            h * f0,
            h * (f1 - 4 * f0) - 11 * x0 - 5 * x1 + 16 * middle,
            h * (5 * f0 - 3 * f1) + 18 * x0 + 14 * x1 - 32 * middle,
            2 * h * (f1 - f0) - 8 * (x1 + x0) + 16 * middle,
        )

    leaves = jax.tree.map(fit, x0, x1, middle, slope0, slope1)
    return jax.tree.transpose(jax.tree.structure(x0), jax.tree.structure((0,) * 5), leaves)


def _evaluate(polynomial, s):
    total = polynomial[-1]
    for coefficient in polynomial[-2::-1]:
        total = jax.tree.map(lambda total, c: total * s + c, total, coefficient)
    return total


def dopri5(
    field: Field,
    x: State,
    grid: jax.Array,
    *,
    rtol: float,
    atol: float,
    trajectory: bool = False,
) -> State:
    """Adaptive steps over the grid, up or down. Arguments and result as in `runge_kutta`.

    A step is accepted where the root mean square of error / (atol + rtol |x|) over the whole batch
    is at most 1, so a sample depends on the others in its batch. Steps do not stop at grid times:
    the last one reaches beyond grid[-1], where the field is evaluated too, and the states at grid
    times are interpolated. torchdiffeq keeps time in float64; here it is float32, with each step's
    length taken between the two rounded times, so that no error builds up between the state and
    its time. The first step is often so short that its error is the rounding of the model, which
    differs between machines; it decides the later sizes, so samples agree to the tolerance only.
    Where no step is small enough, or 10,000 are not enough, the result is NaN.
    """
    x, grid = float32(x), jnp.asarray(grid, jnp.float32)
    sign = jnp.where(grid[-1] < grid[0], -1.0, 1.0)
    times = sign * grid

    def forward(x, t, evaluation):
        return jax.tree.map(lambda slope: sign * slope, float32(field(x, sign * t, evaluation)))

    first = _first_step(forward, x, times[0], rtol, atol)
    if not trajectory:
        times = times[jnp.array([0, -1])]

    def attempt(step: _Step) -> _Step:
        return _attempt(forward, step, rtol, atol)

    def to_time(step: _Step, t: jax.Array) -> tuple[_Step, State]:
        def short_of_t(step):
            alive = (step.end + step.size > step.end) & (step.attempts < MAX_ATTEMPTS)
            return (step.end < t) & alive

        step = jax.lax.while_loop(short_of_t, attempt, step)
        s = (t - step.start) / (step.end - step.start)
        s = jnp.where(step.end >= t, s, jnp.nan)
        return step, _evaluate(step.polynomial, s)

    _, states = jax.lax.scan(to_time, first, times[1:])
    if not trajectory:
        return jax.tree.map(lambda states: states[-1], states)
    return jax.tree.map(lambda x, states: jnp.concatenate([x[None], states]), x, states)


def _first_step(field: Field, x: State, t: jax.Array, rtol: float, atol: float) -> _Step:
    """Before the first step, with its size. Hairer, Norsett & Wanner, Solving ODEs I, sec. II.4."""
    tolerance = jax.tree.map(lambda x: atol + rtol * jnp.abs(x), x)

    # Two evaluations in one loop, so that the model inside the field is compiled once for both.
    def evaluate(point, evaluation):
        at, t = point
        slope = field(at, t, evaluation)
        h = _probe_size(x, slope, tolerance)
        return (jax.tree.map(lambda at, f: at + h * f, at, slope), t + h), slope

    _, slopes = jax.lax.scan(evaluate, (x, t), jnp.arange(2))
    slope, slope_after = (jax.tree.map(operator.itemgetter(i), slopes) for i in range(2))
    size = _first_size(slope, slope_after, _probe_size(x, slope, tolerance), tolerance)
    return _Step(x, slope, t, t, size, (x,) * 5, jnp.int32(0))


def _attempt(field: Field, step: _Step, rtol: float, atol: float) -> _Step:
    """The next step if its error is small enough, else the same one; the size is adapted."""
    start, end = step.end, step.end + step.size
    h = end - start
    k = run_stages(
        TABLEAU,
        field,
        step.x,
        start,
        end,
        first_evaluation=1 + 6 * step.attempts,
        first_slope=step.slope,
    )

    def combine(x, weights):
        return advance(x, h, jnp.asarray(weights, jnp.float32), k)

    x, middle = combine(step.x, TABLEAU.weights), combine(step.x, MIDPOINT_WEIGHTS)
    tolerance = jax.tree.map(
        lambda a, b: atol + rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)), step.x, x
    )
    # The weights sum to 0, so they may act on differences, which are exact where steps are small.
    changes = jax.tree.map(lambda k: k - k[0], k)
    zeros = jax.tree.map(jnp.zeros_like, x)
    error = _norm(advance(zeros, h, jnp.asarray(ERROR_WEIGHTS, jnp.float32), changes), tolerance)
    slope = jax.tree.map(lambda k: k[-1], k)
    polynomial = _fit(step.x, x, middle, step.slope, slope, h)
    accepted = _Step(x, slope, start, end, step.size, polynomial, step.attempts)
    chosen = jax.tree.map(lambda new, old: jnp.where(error <= 1, new, old), accepted, step)
    return chosen._replace(size=_next_size(h, error), attempts=step.attempts + 1)


def _integrate(
    problem: Problem, x: State, grid: jax.Array, *, trajectory: bool = False, **tolerances: float
) -> State:
    return dopri5(problem.field, x, grid, trajectory=trajectory, **tolerances)


def _check(rtol: float, atol: float) -> None:
    if rtol <= 0 or atol < 0:
        raise ValueError(f"rtol is {rtol} and atol {atol}; expected rtol above 0, atol at least 0")


SOLVERS = {"dopri5": Solver(_integrate, None, options=("rtol", "atol"), check=_check)}
