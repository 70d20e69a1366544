"""The terms of the tokenizer's loss on held-out images."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from lightningdit_jax.assembly.alignment import foundation_normalization
from lightningdit_jax.config import Config
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.training.alignment_losses import alignment_loss_of
from lightningdit_jax.training.companions import DISCRIMINATOR, LINEAR_PROJ
from lightningdit_jax.training.frozen import FOUNDATION, LPIPS
from lightningdit_jax.training.held_out import INDEX, SEED, Losses
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.vae_loss import (
    discriminator_loss,
    latent_losses,
    reconstruction_loss,
    stage_at,
)


def make_vae_held_out(
    graphdef: nnx.GraphDef, config: Config, *, networks: Mapping[str, nnx.GraphDef]
) -> Losses:
    """Every term as in training, of posterior samples with noise by index and images uncropped.

    networks: as of make_vae_step. The discriminator normalizes by its running statistics, so that
    an image's terms are its own; `disc_loss` and `g_loss` count before their stage too. There is no
    "loss": the weights of adversary and alignment are ratios of gradients of a batch. An alignment
    that compares images with each other is left out, as it is no image's own.
    """
    loss, way = config.vae_loss, alignment_loss_of(config.vae_loss)

    def rows(
        params: Any,
        state: TrainState,
        batch: dict,
        frozen: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, jax.Array]:
        model, images = nnx.merge(graphdef, params), to_model_range(batch["images"])
        posterior = model.encode(images)
        noise = draw_samples(jax.random.normal, SEED, batch[INDEX], posterior.mean.shape[1:])
        z = posterior.mean + posterior.std * noise
        rebuilt = model.decode(z)
        lpips = None
        if LPIPS in networks:
            lpips = nnx.merge(networks[LPIPS], frozen[LPIPS])(images, rebuilt)
        nll, terms = _by_image(
            lambda x, y, lpips: reconstruction_loss(x, y, lpips, loss), images, rebuilt, lpips
        )
        terms |= {"nll": nll[:, 0]}
        terms |= _by_image(lambda p, z: latent_losses(p, z, loss), posterior, z)
        if DISCRIMINATOR in networks:
            companion = state.companions[DISCRIMINATOR]
            judge = nnx.merge(networks[DISCRIMINATOR], companion.params, companion.stats)
            real, fake = judge(images, train=False), judge(rebuilt, train=False)
            terms["g_loss"] = -fake.mean(axis=(1, 2, 3))
            terms["disc_loss"] = _by_image(lambda a, b: discriminator_loss(a, b, loss), real, fake)
        if FOUNDATION in networks and way.min_images == 1:
            stage = stage_at(config.stages, state.step)
            foundation = nnx.merge(networks[FOUNDATION], frozen[FOUNDATION])
            features = foundation_features(
                foundation, images, z.shape[1:3], foundation_normalization(config)
            )
            project = nnx.merge(networks[LINEAR_PROJ], state.companions[LINEAR_PROJ].params)
            latents = posterior.mean if way.of_mean else z
            terms["vf_loss"] = _by_image(
                lambda z, f: way.loss(z, f, project, stage), latents, features
            )
        return terms

    return Losses(rows, lambda indices: {})


def _by_image(term: Any, *arrays: Any) -> Any:
    """A term of batches, of each image alone: [B, ...] each, or None -> [B, ...]."""
    return jax.vmap(lambda *x: term(*jax.tree.map(lambda a: a[None], x)))(*arrays)
