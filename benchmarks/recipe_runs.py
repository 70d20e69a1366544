"""Generators of several seeds trained as one program, samples of each, and what both cost."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.seeded_runs import run_of, training_batches
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import Config
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.quality.metrics import make_quality
from lightningdit_jax.inference.sampling.in_training import TrainingSampler
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.job import abstract_job, fresh_state, make_job
from lightningdit_jax.training.muon import update_flops
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.step_flops import step_flops


def train_together(
    config: Config, seeds: Sequence[int], rates: Sequence[float]
) -> tuple[list[TrainState], np.ndarray]:
    """The last state of a run of each seed at each rate, and its loss by step, [runs, steps].

    Runs are those of main.py by one device, up to rounding: same step, weights, data and noise. But
    seed and rate are arguments of one program, which is compiled once for all runs of a config.
    """
    job = make_job(config, make_mesh(devices=jax.devices()[:1]))
    run = run_of(config, job)
    values = {
        "seed": jnp.asarray(seeds, jnp.uint32),
        "optimizer.learning_rate": jnp.asarray(rates, jnp.float32),
    }
    state = jax.jit(jax.vmap(run.begin))(values)
    step_fn = jax.jit(jax.vmap(run.step), donate_argnums=1)
    assert job.source is not None  # as the data is there
    data = [training_batches(config, job.source, seed) for seed in seeds]
    losses = []
    for _ in range(config.train.num_steps):
        batches = [next(each) for each in data]
        batch = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
        state, metrics = step_fn(values, state, batch)
        losses.append(metrics["loss"])
    states = [jax.tree.map(lambda leaf: leaf[i], state) for i in range(len(seeds))]  # noqa: B023
    return states, np.stack(losses, axis=1)


def judge(
    config: Config,
    states: Sequence[TrainState],
    seeds: Sequence[int],
    scaling: LatentScaling | None = None,
) -> list[dict[int, dict[str, float]]]:
    """Of each state, by seed of sampling, the numbers of evaluate.metric.

    scaling: of the latents; None is that of config.data.
    """
    found: list[dict[int, dict[str, float]]] = [{} for _ in states]
    for seed in seeds:
        drawn = dataclasses.replace(config, seed=seed)
        count = config.evaluate.train_samples
        sampler = sampler_of(drawn, count, scaling)
        quality = make_quality(drawn, sampler.mesh, sampler.class_names)
        for numbers, state in zip(found, states):
            numbers[seed] = quality(sampler.draw(state), sampler.labels)
    return found


def sampler_of(config: Config, count: int, scaling: LatentScaling | None) -> TrainingSampler:
    """Who draws `count` images of a state of the config."""
    return TrainingSampler(config, scaling, count, what="the study", key="evaluate_every_steps")


def training_flops(config: Config) -> float:
    """Of a step: what its loss asks for, and the products of its optimizer."""
    mesh = make_mesh(devices=jax.devices()[:1])
    job = abstract_job(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    params = jax.eval_shape(lambda: fresh_state(job, config, optimizer)).params
    of_loss = config.train.batch_size * step_flops(config, mesh)
    return of_loss + update_flops(config.optimizer.name, params, 1)


def sampling_flops(config: Config) -> float:
    """Of all velocities of an image, as samples.json has them."""
    architecture = generator_config(config)
    sampling = Sampling.of(config.sample).for_latents(architecture.latent_numbers)
    passes = sampling.forward_passes(Flow(config.flow.path, config.flow.prediction))
    assert passes is not None  # of a solver with a fixed grid
    return passes * forward_flops(architecture, aux_head=sampling.is_guided_internally)
