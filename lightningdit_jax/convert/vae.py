"""Autoencoders of latent diffusion: VA-VAE with its projection, MAR's KL-16, Stable Diffusion's.

They share one module; names are those of Latent Diffusion (LDM), which the release uses.
"""

import re
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.convert.keymap import (
    Conv,
    ConversionError,
    Flat,
    Hints,
    KeyMap,
    Linear,
    Rule,
    StateShapes,
    Tensors,
)
from lightningdit_jax.models.linear_proj import LinearProjConfig
from lightningdit_jax.models.vae import VAVAEConfig

SIGN = "encoder.conv_in.weight"
DIFFUSERS_SIGN = "encoder.conv_norm_out.weight"
STABLE_DIFFUSION_SIGN = "first_stage_model.encoder.conv_in.weight"

_KEYMAP = KeyMap(
    rules=(
        Rule("{0}.{1}.weight", "(.+)/(q|k|v|proj_out)/kernel", Linear(kernel_size=(1, 1))),
        Rule("{0}.weight", "(.+)/kernel", Conv()),
        Rule("{0}.weight", "(.+)/scale", Flat()),
        Rule("{0}.bias", "(.+)/bias", Flat()),
    ),
    ignored=(
        (r"loss\.perceptual_loss\.", "perceptual network; --kind=lpips converts it"),
        (r"loss\.discriminator\.", "discriminator; --kind=discriminator converts it"),
        (r"loss\.logvar$", "log variance of the loss, never trained"),
        (r"foundation_model\.", "vision foundation model; --kind=dinov2 or mae converts it"),
        (r"linear_proj\.", "projection into its space; --kind=linear_proj converts it"),
        (r"model_ema\.", "averages of Latent Diffusion's training, under mangled names"),
    ),
)


def keymap(config: VAVAEConfig) -> KeyMap:
    """Table of an LDM autoencoder, of any size."""
    return _KEYMAP


def infer(shapes: StateShapes, hints: Hints) -> VAVAEConfig:
    """Architecture of an LDM autoencoder, from the shapes of its state dict.

    Groups and activation are in no tensor: those of LDM's code unless the hints say otherwise.
    The nominal resolution only says where attention stands; it is taken to make that 16, as in the
    release (256 for f16 with attention at the coarsest level), and 256 where there is none.
    """
    ch, in_channels, _, _ = shapes.read("encoder.conv_in.weight", (128, 3, 3, 3))
    # The decoder always has a block a level; an encoder without residual blocks has none.
    levels = max(shapes.count(r"decoder\.up\.(\d+)\."), 1)
    widths = []
    for level in range(levels):
        key = f"decoder.up.{level}.block.0.conv1.weight"
        width = shapes.read(key, (ch, ch, 3, 3))[0]
        if width % ch:
            shapes.note(key, f"wrong shape: {key} {shapes[key]}, expected multiples of {ch}")
        widths.append(width)
    encoder = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes]
    decoder = [i for i in range(levels) if f"decoder.up.{i}.attn.0.q.weight" in shapes]
    attended = encoder + decoder
    resolution = 16 * 2 ** max(attended) if attended else 256
    resolution = max(resolution, 2 ** (levels - 1))
    z_channels = shapes.read("decoder.conv_in.weight", (ch, 4, 3, 3))[1]
    embed_dim, use_variational = z_channels, True
    quant_conv = any(key.startswith(("quant_conv.", "post_quant_conv.")) for key in shapes)
    if quant_conv:
        embed_dim = shapes.read("post_quant_conv.weight", (z_channels, z_channels, 1, 1))[1]
        use_variational = shapes.read("quant_conv.bias", (2 * embed_dim,)) != (embed_dim,)
    return VAVAEConfig(
        resolution=resolution,
        in_channels=in_channels,
        ch=ch,
        ch_mult=tuple(max(width // ch, 1) for width in widths),
        num_res_blocks=shapes.count(r"encoder\.down\.0\.block\.(\d+)\."),
        encoder_attn_resolutions=tuple(resolution >> i for i in encoder),
        decoder_attn_resolutions=tuple(resolution >> i for i in decoder),
        z_channels=z_channels,
        embed_dim=embed_dim,
        use_variational=use_variational,
        num_groups=VAVAEConfig.num_groups if hints.norm_groups is None else hints.norm_groups,
        activation=VAVAEConfig.activation if hints.act_fn is None else hints.act_fn,
        quant_conv=quant_conv,
    )


# Names of diffusers' AutoencoderKL -> those of LDM; the decoder's levels count from the other end.
_DIFFUSERS = (
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.(?:to_q|query)\.", ".q."),
    (r"\.(?:to_k|key)\.", ".k."),
    (r"\.(?:to_v|value)\.", ".v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".proj_out."),
)


def stable_diffusion_names(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """A Stable Diffusion VAE with LDM's names: from diffusers, or out of a whole LDM checkpoint."""
    prefix = "first_stage_model."
    if STABLE_DIFFUSION_SIGN in tensors:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if DIFFUSERS_SIGN not in tensors:
        return tensors
    shapes = StateShapes({key: value.shape for key, value in tensors.items()})
    levels = shapes.count(r"decoder\.up_blocks\.(\d+)\.")
    names = {key: _ldm_name(key, levels) for key in tensors}
    if len({*names.values()}) < len(names):
        twice = [f"{k} -> {n}" for k, n in names.items() if [*names.values()].count(n) > 1]
        raise ConversionError("these tensors are several times the same one:", twice)
    return {names[key]: _as_convolution(key, value) for key, value in tensors.items()}


def _ldm_name(key: str, levels: int) -> str:
    if match := re.match(r"decoder\.up_blocks\.(\d+)\.", key):
        key = f"decoder.up.{levels - 1 - int(match[1])}." + key[match.end() :]
    for pattern, replacement in _DIFFUSERS:
        key = re.sub(pattern, replacement, key)
    return key


# The way back, to the newer of diffusers' two sets of names.
_LDM = (
    (r"(encoder|decoder)\.mid\.block_1\.", r"\1.mid_block.resnets.0."),
    (r"(encoder|decoder)\.mid\.block_2\.", r"\1.mid_block.resnets.1."),
    (r"(encoder|decoder)\.mid\.attn_1\.", r"\1.mid_block.attentions.0."),
    (r"encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"\.proj_out\.", ".to_out.0."),
)


def diffusers_names(config: VAVAEConfig, tensors: Tensors) -> dict[str, np.ndarray]:
    """The state dict of an LDM autoencoder as diffusers' AutoencoderKL has it."""
    renamed = {}
    for key, tensor in tensors.items():
        if match := re.match(r"decoder\.up\.(\d+)\.", key):
            level = len(config.ch_mult) - 1 - int(match[1])
            key = f"decoder.up_blocks.{level}." + key[match.end() :]
        for pattern, replacement in _LDM:
            key = re.sub(pattern, replacement, key)
        is_matrix = ".attentions." in key and tensor.ndim == 4
        renamed[key] = tensor.reshape(tensor.shape[:2]) if is_matrix else tensor
    return renamed


def _as_convolution(key: str, tensor: np.ndarray) -> np.ndarray:
    """diffusers keeps the projections of attention as matrices; LDM as 1x1 convolutions."""
    if ".attentions." in key and tensor.ndim == 2:
        return tensor[:, :, None, None]
    return tensor


def linear_proj_keymap(config: LinearProjConfig) -> KeyMap:
    """Table of VA-VAE's projection between latents and features of the foundation model."""
    return KeyMap((Rule("weight", "kernel", Linear(kernel_size=(1, 1))),))


def infer_linear_proj(shapes: StateShapes, hints: Hints) -> LinearProjConfig:
    """Widths of VA-VAE's projection."""
    outputs, inputs, _, _ = shapes.read("weight", (1024, 32, 1, 1))
    return LinearProjConfig(inputs, outputs)
