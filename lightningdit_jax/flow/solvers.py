"""Every solver by name. A row stands beside its mathematics; a new family is one more line here."""

from lightningdit_jax.flow import ode, sde
from lightningdit_jax.flow.solver import Solver

SOLVERS: dict[str, Solver] = {**ode.SOLVERS, **sde.SOLVERS}
