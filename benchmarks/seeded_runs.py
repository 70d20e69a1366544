"""Training as one program in which numbers of the config are arguments, for many short runs."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from lightningdit_jax.config import Config
from lightningdit_jax.data.pipeline import Batch, BatchSource, make_pipeline
from lightningdit_jax.training.job import Job, state_of
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.state import TrainState

# By key, such as "seed" and "optimizer.learning_rate": numbers, or arrays of a traced program.
Values = Mapping[str, Any]


class Run(NamedTuple):
    """begin(values) -> state; step(values, state, batch) -> (state, metrics). To be jitted.

    What main.py does on one device, up to rounding: same weights, noise and step.
    """

    begin: Callable[[Values], TrainState]
    step: Callable[[Values, TrainState, Batch], tuple[TrainState, dict]]


def run_of(config: Config, job: Job) -> Run:
    """A run of a config but for some values of its keys, "seed" among them."""
    graphdef = job.graphdef()

    def chosen(values: Values) -> tuple:
        one = _with_values(config, values)
        return one, make_optimizer(one.optimizer, config.train.num_steps)

    def begin(values: Values) -> TrainState:
        params = job.init_params(jax.random.key(values["seed"]))
        return state_of(params, job.init_companions(values["seed"]), *chosen(values))

    def step(values: Values, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        return job.make_step(graphdef, *chosen(values))(state, batch, *job.frozen)

    return Run(begin, step)


def training_batches(config: Config, source: BatchSource, seed: int) -> Iterator[Batch]:
    """Those that a run of this seed trains on."""
    pipeline = make_pipeline(
        source,
        global_batch_size=config.train.batch_size,
        seed=seed,
        flip=config.data.flip,
        num_threads=1,
        prefetch_batches=1,
    )
    return iter(pipeline)


def _with_values(config: Config, values: Values) -> Config:
    # A config compares its numbers with their ranges when it is made, which traced ones forbid.
    one = copy.copy(config)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if not section:
            object.__setattr__(one, name, value)
            continue
        part = copy.copy(getattr(one, section))
        object.__setattr__(part, name, value)
        object.__setattr__(one, section, part)
    return one
