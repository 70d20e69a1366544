"""Networks of the golden VA-VAE training cases, from their PyTorch weights."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lightningdit_jax.config_vae_loss import VAELossConfig
from lightningdit_jax.convert import discriminator as discriminator_table
from lightningdit_jax.convert import lpips as lpips_table
from lightningdit_jax.convert.keymap import Hints, KeyMap, StateShapes
from lightningdit_jax.models.discriminator import Discriminator
from lightningdit_jax.models.lpips import LPIPS
from lightningdit_jax.models.rngs import CountedRngs
from tests import golden

RELEASED = VAELossConfig(
    reduction="sum",
    logvar=0.0,
    pixel_weight=1.0,
    perceptual_weight=1.0,
    kl_weight=1e-6,
    ve_weight=0.0,
    magnitude_weight=0.0,
    disc_weight=0.5,
    adaptive_disc=True,
    disc_loss="hinge",
    alignment="dinov2",
    alignment_loss="vf",
    soft_kl_temperature=0.1,
    adaptive_vf=True,
    distmat_weight=1.0,
    cos_weight=1.0,
    reverse_proj=True,
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A converted network in functional form."""

    graphdef: nnx.GraphDef
    params: dict
    stats: dict
    keymap: KeyMap

    def to_torch(self, params, stats):
        """Parameters, or gradients in their shape, and statistics as a state dict."""
        return self.keymap.to_torch(
            nnx.to_pure_dict(nnx.state(nnx.merge(self.graphdef, params, stats)))
        )


def lpips(**options):
    return _network(lpips_table, LPIPS, "lpips_tiny.weights.safetensors", options)


def discriminator(**options):
    return _network(
        discriminator_table, Discriminator, "discriminator.weights.safetensors", options
    )


def _network(table, module, name, options):
    weights = golden.load_file(golden.GOLDEN / name)
    shapes = StateShapes({key: tuple(value.shape) for key, value in weights.items()})
    config = table.infer(shapes, Hints())
    abstract = nnx.eval_shape(lambda: module(config, **options, rngs=CountedRngs(0)))
    graphdef, state = nnx.split(abstract, (nnx.Param, nnx.BatchStat))
    keymap = table.keymap(config)
    state = keymap.from_torch(weights, nnx.to_pure_dict(state))
    model = nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return Network(graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats), keymap)
