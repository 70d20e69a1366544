"""The tokenizer's train step: reconstruction and KL.

The perceptual, adversarial and vision-alignment terms of VA-VAE are not there yet.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lightningdit_jax.config import Config
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.update import apply_gradients

Metrics = dict[str, jax.Array]


def make_vae_loss(
    graphdef: nnx.GraphDef, *, pixel_weight: float, kl_weight: float
) -> Callable[..., tuple[jax.Array, Metrics]]:
    """loss(params, images, key) -> (scalar, metrics); images [B, H, W, 3] in [-1, 1].

    L1 and KL, each summed over the image and averaged over the batch (Rombach et al. 2022, with
    the log variance of the likelihood fixed at 0 as in the VA-VAE release).
    """

    def loss_fn(params: Any, images: jax.Array, key: jax.Array):
        vae = nnx.merge(graphdef, params)
        posterior = vae.encode(images)
        reconstruction = vae.decode(posterior.sample(key))
        error = jnp.abs(images - reconstruction)
        l1 = error.sum(axis=(1, 2, 3)).mean()
        kl = posterior.kl().mean()
        loss = pixel_weight * l1 + kl_weight * kl
        return loss, {"loss": loss, "l1": error.mean(), "kl": kl}

    return loss_fn


def make_vae_step(
    graphdef: nnx.GraphDef, config: Config, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics); batch: images [B, H, W, 3] uint8.

    The posterior is sampled from (seed, step), whatever the mesh.
    """
    loss_fn = make_vae_loss(
        graphdef,
        pixel_weight=config.vae_loss.pixel_weight,
        kl_weight=config.vae_loss.kl_weight,
    )

    def step_fn(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        images = batch["images"].astype(jnp.float32) / 127.5 - 1.0
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, images, key
        )
        state, update_metrics = apply_gradients(
            state, grads, loss, optimizer, config.train.ema_decay
        )
        return state, metrics | update_metrics

    return step_fn
