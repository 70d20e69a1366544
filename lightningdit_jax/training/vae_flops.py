"""Arithmetic of the tokenizer's train step, as its loss asks for it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.config import Config
from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.training.alignment_losses import alignment_loss_of
from lightningdit_jax.training.companions import DISCRIMINATOR, tokenizer_companions
from lightningdit_jax.training.frozen import FOUNDATION, LPIPS


def vae_step_flops(config: Config, frozen: Mapping[str, Loaded]) -> dict[str, float]:
    """Matmul FLOPs of a train step per image, by network.

    A forward pass is counted in its trace, two per multiply-add. How many such passes a network
    takes follows from the loss, where a gradient by inputs or by parameters is one each:
    encoder 3; decoder 3, and 1 more where the alignment's adaptive weight wants the gradient of the
    likelihood alone at the latent; LPIPS 2, and 1 for the gradient by the reconstruction;
    foundation model 1; discriminator 7: over images and over the reconstruction, by the
    reconstruction, and for its own update twice by parameters and by inputs. Left out are the
    projection, the alignment's similarities and the last layers' kernels that adaptive weights look
    at, below 1 % at the published sizes.
    """
    architecture = tokenizer_config(config)
    side, factor = architecture.resolution, architecture.downsample_factor
    grid = side // factor
    graphdef, params = abstract_model("vavae", architecture)
    image = _float32(side, side, architecture.in_channels)
    latent = _float32(grid, grid, architecture.embed_dim)
    encode = matmul_flops(lambda p, x: nnx.merge(graphdef, p).encode(x), params, image)
    decode = matmul_flops(lambda p, z: nnx.merge(graphdef, p).decode(z), params, latent)
    balance = alignment_loss_of(config.vae_loss).balance
    second_decode = FOUNDATION in frozen and config.vae_loss.adaptive_vf and not balance.whole_loss
    flops = {"encoder": 3 * encode, "decoder": (4 if second_decode else 3) * decode}
    if LPIPS in frozen:
        network = frozen[LPIPS]
        flops[LPIPS] = 3 * matmul_flops(
            lambda p, x: nnx.merge(network.graphdef, p).features(x), network.params, image
        )
    companions = tokenizer_companions(config, None)
    if DISCRIMINATOR in companions:
        graph, state = abstract_model(DISCRIMINATOR, companions[DISCRIMINATOR].config)
        flops[DISCRIMINATOR] = 7 * matmul_flops(
            lambda p, x: nnx.merge(graph, p)(x, train=False), state, image
        )
    if FOUNDATION in frozen:
        foundation = frozen[FOUNDATION]
        patches = grid * foundation.config.patch_size
        flops[FOUNDATION] = matmul_flops(
            lambda p, x: nnx.merge(foundation.graphdef, p)(x),
            foundation.params,
            _float32(patches, patches, 3),
        )
    return flops


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)
