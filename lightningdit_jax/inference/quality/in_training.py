"""Evaluation within a generator's training: samples of the averaged weights, and their numbers."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from flax import nnx

from lightningdit_jax.assembly.latents import scaling_of
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.assembly.registry import abstract_model, compute_options
from lightningdit_jax.averages import WEIGHTS, average_decays, weights_item
from lightningdit_jax.config import HELD_OUT, Config
from lightningdit_jax.data.latents_record import class_names, read_record
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.quality.metrics import make_quality, metric_of
from lightningdit_jax.inference.sampling.fitting import GeneratorMeaning
from lightningdit_jax.inference.sampling.opening import load_companions
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels
from lightningdit_jax.inference.sampling.plan import plan_sampler
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.planning.mesh import inference_mesh


class Weights(Protocol):
    """What the evaluator needs of a training state: parameters, and their averages by name."""

    @property
    def params(self) -> Any: ...
    @property
    def averages(self) -> Mapping[str, Any]: ...


Evaluator = Callable[[int, Weights], dict[str, float]]


def make_training_evaluator(
    config: Config, scaling: LatentScaling | None = None
) -> Evaluator | None:
    """evaluator(step, state) -> numbers of evaluate.train_samples images, or None where it is off.

    It is off for train.evaluate_every_steps = 0 and for a tokenizer. Images are drawn as by
    --mode=sample, from the average that sample.use_ema and sample.ema_decay choose (state.params if
    there is none), with the same noise and labels at every step. The numbers are those of
    evaluate.metric as images are drawn; a Fréchet distance of few samples is biased upwards, so
    compare it with its like only. scaling: of the run's latents; None is that of config.data. All
    processes have to call it, with the state on their mesh.
    Raises ValueError or FileNotFoundError for a tokenizer, latent statistics, a network, a
    reference or an average that are missing or do not fit, and for a train.best_metric that is no
    number of the metric's, all before training begins.
    """
    if config.kind != "lightningdit" or config.train.evaluate_every_steps == 0:
        return None
    options, best, names = config.sample, config.train.best_metric, metric_of(config).stream_names
    if best and not best.startswith(HELD_OUT) and best not in names:
        raise ValueError(unknown_name("number of config.train.best_metric", best, names))
    if not options.tokenizer:
        raise ValueError(
            "config.sample.tokenizer is empty; evaluation within training decodes its samples: "
            "set it to the tokenizer's checkpoint, or train.evaluate_every_steps to 0"
        )

    def chosen(averages: Iterable[str]) -> str:
        return weights_item(averages, options.use_ema, options.ema_decay, "config.train.ema_decays")

    chosen(average_decays(config.train.ema_decay, config.train.ema_decays))  # before training
    mesh = inference_mesh(config.mesh)
    generator = generator_config(config)
    flow = Flow(config.flow.path, config.flow.prediction)
    scaling = scaling_of(config.data) if scaling is None else scaling
    record = read_record(epath.Path(config.data.path))
    made_by = (record or {}).get("tokenizer")
    loaded = load_companions(config, mesh, GeneratorMeaning(generator, flow, scaling), made_by)
    structure = Structure(
        dit=abstract_model(
            "lightningdit",
            generator,
            **compute_options("lightningdit", generator, config.compute, mesh),
        )[0],
        vae=loaded["vae"].graphdef,
        weak=loaded["weak"].graphdef if "weak" in loaded else None,
        config=generator,
        scaling=scaling,
        flow=flow,
    )
    others = structure.weights({name: part.params for name, part in loaded.items()})
    tokenizer = nnx.merge(structure.vae, others["vae"])  # not the float32 weights, which may go
    sampling = Sampling.of(options)
    structure.check(sampling)
    count = config.evaluate.train_samples
    known = class_names(record)
    labels = choose_labels(options.labels, count, generator.num_classes, config.seed, known)
    quality = make_quality(config, mesh, known)

    def evaluator(step: int, state: Weights) -> dict[str, float]:
        params = {WEIGHTS: state.params, **state.averages}[chosen(state.averages)]
        # A copy, as the run trains on in float32: it is half as large as the gradients, which
        # are not there now, and spares the cast in every evaluation of the network.
        networks = others | structure.weights({"dit": params})
        held = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
        plan = plan_sampler(config, mesh, generator, tokenizer, networks, count, held)
        planned = dataclasses.replace(structure, decode_batch_size=plan.decode_batch_size)
        sampler = Sampler(planned, networks, mesh, plan.batch_size)
        batches = sampler.batches(np.arange(count), labels, sampling, seed=config.seed)
        return quality((images for _, images in batches), labels)

    return evaluator
