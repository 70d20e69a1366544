"""Samples of a generator that is being trained."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from flax import nnx

from lightningdit_jax.assembly.latents import its_checkpoint, scaling_of
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.assembly.registry import abstract_model, compute_options
from lightningdit_jax.averages import (
    WEIGHTS,
    average_decays,
    power_item,
    power_sigmas,
    weights_item,
)
from lightningdit_jax.config import Config
from lightningdit_jax.data.latents_record import class_names, read_record
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.fitting import GeneratorMeaning
from lightningdit_jax.inference.sampling.opening import find_companions, load_companions
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels
from lightningdit_jax.inference.sampling.plan import plan_sampler
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.planning.mesh import inference_mesh


class Weights(Protocol):
    """What is needed of a training state: parameters, and their averages by name."""

    @property
    def params(self) -> Any: ...
    @property
    def averages(self) -> Mapping[str, Any]: ...


class TrainingSampler:
    """Draws `count` images as by --mode=sample, with the same noise and labels at every step.

    From the average that sample.use_ema, sample.ema_decay and sample.ema_sigma choose (state.params
    if there is none); a sigma is one of train.ema_sigmas. scaling: of the run's latents; None is
    that of config.data. what: is done with them, by `key` of config.train, for messages. Raises
    ValueError or FileNotFoundError for a tokenizer, latent statistics or an average that are
    missing or do not fit.
    """

    def __init__(
        self, config: Config, scaling: LatentScaling | None, count: int, *, what: str, key: str
    ):
        options = config.sample
        if not options.tokenizer:
            raise ValueError(
                f"config.sample.tokenizer is empty; {what} within training decodes its samples: "
                f"set it to {its_checkpoint(config.data.path)}, or train.{key} to 0"
            )
        self._config, self._count = config, count
        # Before training.
        decays = average_decays(config.train.ema_decay, config.train.ema_decays)
        self._chosen((*decays, *power_sigmas(config.train.ema_sigmas)))
        self.mesh = inference_mesh(config.mesh)
        generator = generator_config(config)
        flow = Flow(config.flow.path, config.flow.prediction)
        scaling = scaling_of(config.data) if scaling is None else scaling
        record = read_record(epath.Path(config.data.path))
        made_by = (record or {}).get("tokenizer")
        meaning = GeneratorMeaning(generator, flow, scaling)
        self.class_names = class_names(record)
        self.labels = choose_labels(
            options.labels, count, generator.num_classes, config.seed, self.class_names
        )
        find_companions(config, self.mesh, meaning)
        loaded = load_companions(config, self.mesh, meaning, made_by)
        self._structure = Structure(
            dit=abstract_model(
                "lightningdit",
                generator,
                **compute_options("lightningdit", generator, config.compute, self.mesh),
            )[0],
            vae=loaded["vae"].graphdef,
            weak=loaded["weak"].graphdef if "weak" in loaded else None,
            config=generator,
            scaling=scaling,
            flow=flow,
        )
        self._others = self._structure.weights({name: p.params for name, p in loaded.items()})
        # Not the float32 weights, which may go.
        self._tokenizer = nnx.merge(self._structure.vae, self._others["vae"])
        self._sampling = self._structure.fitted(Sampling.of(options))

    def draw(self, state: Weights) -> Iterator[np.ndarray]:
        """Batches of images, uint8 [b, H, W, 3]. All processes have to call it."""
        config, generator = self._config, self._structure.config
        params = {WEIGHTS: state.params, **state.averages}[self._chosen(state.averages)]
        # A copy, as the run trains on in float32: it is half as large as the gradients, which
        # are not there now, and spares the cast in every evaluation of the network.
        networks = self._others | self._structure.weights({"dit": params})
        held = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
        plan = plan_sampler(
            config, self.mesh, generator, self._tokenizer, networks, self._count, held
        )
        planned = dataclasses.replace(self._structure, decode_batch_size=plan.decode_batch_size)
        sampler = Sampler(planned, networks, self.mesh, plan.batch_size)
        indices = np.arange(self._count)
        batches = sampler.batches(indices, self.labels, self._sampling, seed=config.seed)
        return (images for _, images in batches)

    def _chosen(self, averages: Iterable[str]) -> str:
        options, where = self._config.sample, "config.train.ema_decays"
        if options.ema_sigma:
            return power_item(averages, options.ema_sigma, "config.train.ema_sigmas")
        return weights_item(averages, options.use_ema, options.ema_decay, where)
