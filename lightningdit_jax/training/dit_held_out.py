"""The generator's loss on held-out latents."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import Config
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.flow.predictions import time_interval, train_eps
from lightningdit_jax.flow.timesteps import (
    even_quantiles,
    shift_for,
    shift_timesteps,
    timestep_quantiles,
)
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.training.dit_step import make_dit_losses, total_loss
from lightningdit_jax.training.held_out import INDEX, SEED, TIME, Losses
from lightningdit_jax.training.state import TrainState


def make_dit_held_out(graphdef: nnx.GraphDef, config: Config, *, scaling: LatentScaling) -> Losses:
    """ "loss" and its terms as in training, at a time and with noise by index, no label dropped.

    Times are even quantiles of the law that training begins with, shifted as there, whatever
    flow.uniform_from_step; scaling: of the run's latents. An alignment is no part of it.
    """
    flow, path = config.flow, get_path(config.flow.path)
    losses = make_dit_losses(
        graphdef,
        path=flow.path,
        prediction=flow.prediction,
        loss_weight=flow.loss_weight,
        aux_head=config.model.aux_head_depth > 0,
    )

    def rows(params: Any, state: TrainState, batch: dict, *frozen: Any) -> dict[str, jax.Array]:
        x1 = scaling.normalize(batch["latents"])
        x0 = draw_samples(jax.random.normal, SEED, batch[INDEX], x1.shape[1:])
        terms = losses(params, x1, x0, batch[TIME], batch["labels"])
        loss = total_loss(terms, flow.cosine_weight, flow.aux_loss_weight)
        return {"loss": loss} | terms

    def columns(indices: np.ndarray) -> dict[str, np.ndarray]:
        first, last = time_interval(path, flow.prediction, train_eps(path))
        quantiles = even_quantiles(indices)
        t = timestep_quantiles(quantiles, flow.timesteps, flow.logit_mean, flow.logit_std)
        shift = shift_for(flow.timestep_shift, generator_config(config).latent_numbers)
        t = shift_timesteps(t, shift)
        return {TIME: (first + (last - first) * t).astype(np.float32)}

    return Losses(rows, columns)
