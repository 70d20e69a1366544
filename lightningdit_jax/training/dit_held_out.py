"""The generator's loss on held-out latents."""

from collections.abc import Callable
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
from lightningdit_jax.training.dit_step import MODEL, make_dit_losses, total_loss
from lightningdit_jax.training.held_out import INDEX, SEED, TIME, Losses
from lightningdit_jax.training.repa import PROJECTOR, SHOWN, Alignment
from lightningdit_jax.training.state import TrainState


def make_dit_held_out(
    graphdef: nnx.GraphDef,
    config: Config,
    *,
    scaling: LatentScaling,
    alignment: Alignment | None = None,
) -> Losses:
    """ "loss" and its terms as in training, at a time and with noise by index, no label dropped.

    Times are even quantiles of the law that training begins with, shifted as there, whatever
    flow.uniform_from_step; scaling: of the run's latents. An alignment is no part of "loss", which
    runs with and without one have in common; it is "repa_loss" where a batch has what it is shown.
    """
    terms = make_held_out_terms(graphdef, config, alignment)

    def rows(params: Any, state: TrainState, batch: dict, *frozen: Any) -> dict[str, jax.Array]:
        return terms(params, state, scaling.normalize(batch["latents"]), batch, *frozen)

    return Losses(rows, lambda indices: held_out_columns(config, indices))


def make_held_out_terms(
    graphdef: nnx.GraphDef, config: Config, alignment: Alignment | None
) -> Callable[..., dict[str, jax.Array]]:
    """terms(params, state, x1, batch, frozen) -> {term: [B]} of latents x1 as the model sees them.

    frozen: parameters of the alignment's teacher, where it has one.
    """
    flow = config.flow

    def losses_of(alignment: Alignment | None) -> Callable[..., dict[str, jax.Array]]:
        return make_dit_losses(
            graphdef,
            path=flow.path,
            prediction=flow.prediction,
            loss_weight=flow.loss_weight,
            aux_head=config.model.aux_head_depth > 0,
            alignment=alignment,
        )

    def terms(
        params: Any, state: TrainState, x1: jax.Array, batch: dict, frozen: Any = None
    ) -> dict[str, jax.Array]:
        x0 = draw_samples(jax.random.normal, SEED, batch[INDEX], x1.shape[1:])
        drawn = (x1, x0, batch[TIME], batch["labels"])
        if alignment is None or SHOWN not in batch:
            found = losses_of(None)(params, *drawn)
        else:
            both = {MODEL: params, PROJECTOR: state.companions[PROJECTOR].params}
            found = losses_of(alignment)(both, *drawn, batch[SHOWN], frozen=frozen)
        return {"loss": total_loss(found, flow.cosine_weight, flow.aux_loss_weight)} | found

    return terms


def held_out_columns(config: Config, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The time of an example, by its index."""
    flow, path = config.flow, get_path(config.flow.path)
    first, last = time_interval(path, flow.prediction, train_eps(path))
    quantiles = even_quantiles(indices)
    t = timestep_quantiles(quantiles, flow.timesteps, flow.logit_mean, flow.logit_std)
    shift = shift_for(flow.timestep_shift, generator_config(config).latent_numbers)
    t = shift_timesteps(t, shift)
    return {TIME: (first + (last - first) * t).astype(np.float32)}
