"""A generator whose tokenizer may train beside it: runs by seed, and the tokenizer that is left."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lightningdit_jax as ldj
from benchmarks.seeded_runs import Run, Values, run_of, training_batches
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.config import Config
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.training.companions import TOKENIZER
from lightningdit_jax.training.init.tokenizer import (
    begin_with_tokenizer,
    open_tokenizer,
    plan_tokenizer,
)
from lightningdit_jax.training.job import Job, make_job, state_rules
from lightningdit_jax.training.repae import described
from lightningdit_jax.training.state import TrainState

_FIRST = 5  # steps that are not timed: one of them compiles


class Trained(NamedTuple):
    """A run's last state, its records by name, [steps] each, and CPU seconds of a step."""

    state: TrainState
    records: dict[str, np.ndarray]
    step_seconds: float


def train(config: Config, seed: int) -> Trained:
    """What main.py trains on one device, up to rounding: same step, weights, data and noise.

    Seed and repae.weight are arguments of one program, which is compiled once for configs that
    differ in no other key but repae.init.
    """
    alike = config.changed(repae={"weight": float(config.is_joint), "init": ""})
    job, run, step = _programs(alike)
    values = {"seed": jnp.uint32(seed), "repae.weight": jnp.float32(config.repae.weight)}
    state, records, began = _begin(config, run, values), [], 0.0
    assert job.source is not None  # as the data is there
    batches = training_batches(config, job.source, seed)
    for number, batch in zip(range(config.train.num_steps), batches):
        if number == _FIRST:
            began = time.process_time()
        state, metrics = step(values, state, batch)
        records.append(jax.device_get(metrics))
    seconds = (time.process_time() - began) / (config.train.num_steps - _FIRST)
    columns = {name: np.array([record[name] for record in records]) for name in records[0]}
    return Trained(state, columns, seconds)


def keep_tokenizer(config: Config, state: TrainState, path: str) -> LatentScaling:
    """Writes the tokenizer of a state as a checkpoint; returns how its latents are scaled."""
    scaling = LatentScaling.from_meta(described(state)["latents"])
    assert scaling is not None  # as it is of a run that trains one
    graphdef, _ = abstract_model("vavae", tokenizer_config(config))
    vae = nnx.merge(graphdef, state.companions[TOKENIZER].params)
    vae.latent_scaling = scaling
    ldj.save(path, vae)
    return scaling


@functools.cache
def _programs(config: Config) -> tuple[Job, Run, Callable]:
    job = make_job(config, make_mesh(devices=jax.devices()[:1]))
    run = run_of(config, job)
    return job, run, jax.jit(run.step, donate_argnums=1)


def _begin(config: Config, run: Run, values: Values) -> TrainState:
    def fresh() -> TrainState:
        return run.begin(values)

    source, make = open_tokenizer(config, workdir=""), fresh
    if source is not None:
        mesh = make_mesh(devices=jax.devices()[:1])
        abstract = abstract_on_mesh(jax.eval_shape(fresh), mesh, state_rules(config.kind))
        takeover = plan_tokenizer(config, source, abstract)
        make, _ = begin_with_tokenizer(takeover, fresh, abstract, mesh)
    return jax.device_get(make())  # as the steps leave it, with no mesh: one program for all steps
