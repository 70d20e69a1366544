"""The generator's train step: flow matching on latents with dropped labels."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import Config
from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.flow.predictions import prediction_loss, time_interval, train_eps
from lightningdit_jax.flow.timesteps import sample_timesteps, shift_for, shift_timesteps
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.float8 import with_scales, without_scales
from lightningdit_jax.models.weight_types import as_used
from lightningdit_jax.training.repa import PROJECTOR, SHOWN, Alignment
from lightningdit_jax.training.schedules import make_schedule
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.update import accumulate_gradients, apply_gradients

Metrics = dict[str, jax.Array]
MODEL = "model"  # where the weights of networks beside it are differentiated too


def make_dit_losses(
    graphdef: nnx.GraphDef,
    *,
    path: str = "linear",
    prediction: str = "velocity",
    loss_weight: str = "none",
    aux_head: bool = False,
    alignment: Alignment | None = None,
) -> Callable[..., Metrics]:
    """losses(params, x1, x0, t, y) -> {term: [B]}, those of `prediction_loss`.

    x1 latents and x0 noise [B, H, W, C], t [B] in [0, 1], y [B] labels, dropped ones null already.
    aux_head: the model has a second one, whose squared error is "aux_mse". With an alignment
    it is losses(params, x1, x0, t, y, shown, frozen=), params by MODEL and PROJECTOR, and
    "repa_loss" is there: see Alignment.losses.
    """
    flow_path = get_path(path)

    def losses_fn(
        params: Any,
        x1: jax.Array,
        x0: jax.Array,
        t: jax.Array,
        y: jax.Array,
        shown: Any = None,
        *,
        frozen: Any = None,
    ) -> Metrics:
        chex.assert_equal_shape([x1, x0])
        chex.assert_shape([t, y], x1.shape[:1])
        model = nnx.merge(graphdef, params if alignment is None else params[MODEL])
        x = flow_path.interpolate(x0, x1, t)

        def terms(output: jax.Array) -> Metrics:
            return prediction_loss(flow_path, prediction, loss_weight, output, x0, x1, t)

        if not aux_head and alignment is None:
            return terms(model(x, t, y))
        depths = () if alignment is None else (alignment.config.depth,)
        output, aux_output, tokens = model.in_training(x, t, y, depths)
        found = terms(output)
        if aux_head:
            found |= {"aux_mse": terms(aux_output)["mse"]}
        if alignment is not None:
            aligned = tokens[alignment.config.depth]
            found |= {"repa_loss": alignment.losses(params[PROJECTOR], aligned, shown, frozen)}
        return found

    return losses_fn


def total_loss(
    terms: Metrics, cosine_weight: float, aux_weight: float, repa_weight: float = 0.0
) -> jax.Array:
    """The sum of the terms that there are, the squared error unweighted."""
    loss = terms["mse"]
    if "cosine" in terms:
        loss = loss + cosine_weight * terms["cosine"]
    if "aux_mse" in terms:
        loss = loss + aux_weight * terms["aux_mse"]
    if "repa_loss" in terms:
        loss = loss + repa_weight * terms["repa_loss"]
    return loss


def make_dit_loss(
    graphdef: nnx.GraphDef,
    cosine_weight: float,
    aux_weight: float = 0.0,
    repa_weight: float = 0.0,
    **flow: Any,
) -> Callable[..., tuple[jax.Array, Metrics]]:
    """loss(params, x1, x0, t, y) -> (scalar, metrics). flow, arguments: as of make_dit_losses.

    Squared velocity error plus cosine_weight times 1 - cosine similarity (arXiv 2501.01423,
    sec. 4); both terms are metrics of their own, the release logs the first alone. The squared
    error of something else, as `prediction_loss` says, stands alone. A second head adds aux_weight
    times its own squared error (arXiv 2512.24176), an alignment repa_weight times minus its cosine
    similarity (arXiv 2410.06940).
    """
    losses_fn = make_dit_losses(graphdef, **flow)

    def loss_fn(params: Any, *arrays: jax.Array, **frozen: Any):
        terms = {name: loss.mean() for name, loss in losses_fn(params, *arrays, **frozen).items()}
        loss = total_loss(terms, cosine_weight, aux_weight, repa_weight)
        return loss, {"loss": loss} | terms

    return loss_fn


def loss_of_config(
    graphdef: nnx.GraphDef, config: Config, alignment: Alignment | None
) -> Callable[..., tuple[jax.Array, Metrics]]:
    """make_dit_loss as the config has it."""
    flow = config.flow
    return make_dit_loss(
        graphdef,
        flow.cosine_weight,
        flow.aux_loss_weight,
        config.repa.weight,
        path=flow.path,
        prediction=flow.prediction,
        loss_weight=flow.loss_weight,
        aux_head=config.model.aux_head_depth > 0,
        alignment=alignment,
    )


def make_draws(config: Config) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """draws(key, step, shape, labels) -> (noise, times, labels): what a step of a generator draws.

    shape: of the latents, [B, H, W, C]; labels [B], which come back with some of them null.
    """
    flow, path = config.flow, get_path(config.flow.path)
    first, last = time_interval(path, flow.prediction, train_eps(path))
    shift = shift_for(flow.timestep_shift, generator_config(config).latent_numbers)

    def draw_timesteps(key: jax.Array, step: jax.Array, batch: int) -> jax.Array:
        t = sample_timesteps(key, batch, flow.timesteps, flow.logit_mean, flow.logit_std)
        if flow.uniform_from_step >= 0:
            uniform = sample_timesteps(key, batch, "uniform")
            t = jnp.where(step >= flow.uniform_from_step, uniform, t)
        t = shift_timesteps(t, shift)
        return first + (last - first) * t

    def draws(
        key: jax.Array, step: jax.Array, shape: tuple[int, ...], y: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t = draw_timesteps(time_key, step, y.shape[0])
        x0 = jax.random.normal(noise_key, shape, jnp.float32)
        dropped = jax.random.bernoulli(drop_key, config.model.class_dropout_prob, y.shape)
        return x0, t, jnp.where(dropped, config.model.num_classes, y)

    return draws


def make_dit_step(
    graphdef: nnx.GraphDef,
    config: Config,
    optimizer: optax.GradientTransformation,
    *,
    scaling: LatentScaling,
    alignment: Alignment | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics); batch: latents [B, C, H, W] as stored, labels [B].

    scaling: what latents are normalized by. Times, noise and dropped labels are drawn from
    (seed, step), whatever the mesh. alignment: with features cached or computed; batch has what
    Alignment.losses is shown then, and where they are computed it is step(state, batch, frozen)
    with the teacher's parameters.
    """
    loss_fn, draws = loss_of_config(graphdef, config, alignment), make_draws(config)
    schedule = make_schedule(config.optimizer, config.train.num_steps)

    def used(params: Any) -> Any:
        if alignment is None:
            return as_used(graphdef, params)
        return {
            MODEL: as_used(graphdef, params[MODEL]),
            PROJECTOR: as_used(alignment.graphdef, params[PROJECTOR]),
        }

    def step_fn(state: TrainState, batch: dict, frozen: Any = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        rate = schedule(state.step)
        x1 = scaling.normalize(batch["latents"])
        x0, t, y = draws(key, state.step, x1.shape, batch["labels"])
        params = with_scales(state.params, state.float8)
        arrays: tuple[jax.Array, ...] = (x1, x0, t, y)
        loss_of: Callable[..., Any] = loss_fn
        if alignment is not None:
            params = {MODEL: params, PROJECTOR: state.companions[PROJECTOR].params}
            arrays = (*arrays, batch[SHOWN])
            loss_of = functools.partial(loss_fn, frozen=frozen)
        (loss, metrics), grads = accumulate_gradients(
            loss_of, params, arrays, config.number("train.accumulate_steps"), used
        )
        gradients: dict[str, Any] = {}  # of companions
        if alignment is not None:
            gradients, grads = {PROJECTOR: grads[PROJECTOR]}, grads[MODEL]
        grads, largest = without_scales(grads)
        state, update_metrics = apply_gradients(
            state,
            grads,
            loss,
            optimizer,
            config.train.ema_decay,
            config.train.ema_decays,
            largest,
            companions=gradients,
            spike_factor=config.train.spike_factor,
            ema_sigmas=config.train.ema_sigmas,
        )
        return state, {**metrics, **update_metrics, "learning_rate": rate}

    return step_fn
