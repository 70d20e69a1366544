"""Explicit Runge-Kutta methods on a fixed time grid, one stepper for all of their tableaus."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.flow.solver import Field, Problem, Solver, State


@dataclasses.dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method. Hairer, Norsett & Wanner, Solving ODEs I, sec. II.1.

    nodes: the stages' times within a step [S]; matrix: the earlier stages that each one starts
    from, S rows of rising length; weights: of the stages in the result [S].
    """

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @property
    def stages(self) -> int:
        """Evaluations in a step."""
        return len(self.nodes)


TABLEAUS = {
    "euler": Tableau((0,), ((),), (1,)),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "heun2": Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "heun3": Tableau((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    # Kutta's 3/8 rule: torchdiffeq, and so the release, calls it rk4.
    "rk4": Tableau(
        (0, 1 / 3, 2 / 3, 1),
        ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}


def float32(x: State) -> State:
    """Every array of x in float32."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)


def advance(x: State, h: jax.Array, weights: jax.Array, k: State) -> State:
    """x + h sum_i weights[i] k[i], leaf by leaf. weights: [S]; leaves of k: [S, *leaf of x]."""

    # A sum of products and not a matrix product: those are in bfloat16 on a TPU.
    def leaf(x, k):
        return x + h * jnp.sum(weights.reshape(-1, *[1] * x.ndim) * k, axis=0)

    return jax.tree.map(leaf, x, k)


def stage_times(nodes: Sequence[float], start: jax.Array, end: jax.Array) -> jax.Array:
    """Times [S] of the stages in a step from start to end; a node of 1 is `end` to the bit."""
    return jnp.stack([end if node == 1 else start + node * (end - start) for node in nodes])


def evaluation_times(tableau: Tableau, grid: Any) -> jax.Array:
    """Times at which the method asks for the slope, in order. grid: [N] -> [(N - 1) * stages]."""
    return stage_times(tableau.nodes, grid[:-1], grid[1:]).T.ravel()


def run_stages(
    tableau: Tableau,
    field: Field,
    x: State,
    start: jax.Array,
    end: jax.Array,
    *,
    first_evaluation: jax.Array,
    first_slope: State | None = None,
) -> State:
    """Slopes k of all the stages of one step, leaves [S, *leaf of x].

    first_slope: the slope at (x, start), where it is known already.
    """
    stages, known = tableau.stages, int(first_slope is not None)
    matrix = jnp.asarray([row + (0,) * (stages - len(row)) for row in tableau.matrix], jnp.float32)

    def stage(k, inputs):
        i, t, row = inputs
        slope = float32(field(advance(x, end - start, row, k), t, first_evaluation + i))
        return jax.tree.map(lambda k, slope: k.at[i].set(slope), k, slope), None

    k = jax.tree.map(lambda leaf: jnp.zeros((stages, *leaf.shape), jnp.float32), x)
    if known:
        k = jax.tree.map(lambda k, slope: k.at[0].set(slope), k, first_slope)
    # A loop over the stages, so that the model inside the field is compiled once for all of them.
    times = stage_times(tableau.nodes, start, end)
    inputs = (jnp.arange(stages), times, matrix)
    return jax.lax.scan(stage, k, jax.tree.map(lambda a: a[known:], inputs))[0]


def runge_kutta(
    tableau: Tableau, field: Field, x: State, grid: jax.Array, *, trajectory: bool = False
) -> State:
    """One step of the method from each grid time to the next, up or down.

    field: (state, scalar time, number of the evaluation from 0) -> slope. x: state at grid[0];
    grid: [N], so (N - 1) * tableau.stages evaluations, all in one loop that holds `field` once.
    State and time are float32. Returns the state at grid[-1], or with trajectory=True all of them,
    leaves [N, *leaf of x].
    """
    x, grid = float32(x), jnp.asarray(grid, jnp.float32)
    weights = jnp.asarray(tableau.weights, jnp.float32)

    def step(x, inputs):
        start, end, first_evaluation = inputs
        k = run_stages(tableau, field, x, start, end, first_evaluation=first_evaluation)
        x = advance(x, end - start, weights, k)
        return x, x if trajectory else None

    first_evaluations = tableau.stages * jnp.arange(len(grid) - 1)
    last, states = jax.lax.scan(step, x, (grid[:-1], grid[1:], first_evaluations))
    if not trajectory:
        return last
    return jax.tree.map(lambda x, states: jnp.concatenate([x[None], states]), x, states)


def euler_with_memory(
    field: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    memory: Any,
    grid: jax.Array,
) -> jax.Array:
    """The state at grid[-1] by Euler's steps, each of which hands its memory to the next.

    field: (state, scalar time, memory) -> (slope, memory). x, grid: as in `runge_kutta`. memory:
    a pytree. Only where a step is one evaluation is the last evaluation the last step.
    """
    x, grid = float32(x), jnp.asarray(grid, jnp.float32)

    def step(carry, times):
        x, memory = carry
        slope, memory = field(x, times[0], memory)
        return (x + (times[1] - times[0]) * float32(slope), memory), None

    (last, _), _ = jax.lax.scan(step, (x, memory), (grid[:-1], grid[1:]))
    return last


def _solver(tableau: Tableau) -> Solver:
    def integrate(problem: Problem, x: State, grid: jax.Array, *, trajectory: bool = False):
        return runge_kutta(tableau, problem.field, x, grid, trajectory=trajectory)

    return Solver(integrate, functools.partial(evaluation_times, tableau))


SOLVERS = {name: _solver(tableau) for name, tableau in TABLEAUS.items()}
