"""Which keys of a config its solver and its source of data read, as the rows of those say."""

from lightningdit_jax.config_choices import Choice
from lightningdit_jax.data.sources import SOURCES
from lightningdit_jax.flow.solvers import SOLVERS


def solver_choice() -> Choice:
    """config.sample.solver, or those of a sweep, and the solver's own options."""
    own = {name: [f"sample.{o}" for o in row.own_options] for name, row in SOLVERS.items()}
    return Choice("sample.solver", own, tried="sweep.solver")


def source_choice() -> Choice:
    """config.data.source: latents, or a source of images."""
    reads = {"latents": ["data.path"]}
    for name, source in SOURCES.items():
        reads[name] = [f"data.{key}" for key in source.reads]
        if "split" in source.reads:
            reads[name].append("evaluate.split")
    return Choice("data.source", reads)
