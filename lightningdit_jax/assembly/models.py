"""The models that a config names: architectures, and how a generator's blocks are run."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from lightningdit_jax.config import ComputeConfig, Config
from lightningdit_jax.models.attention import choose_implementation
from lightningdit_jax.models.lightningdit import LightningDiTConfig, variant_config
from lightningdit_jax.models.vae import VAVAEConfig


def generator_config(config: Config) -> LightningDiTConfig:
    """The generator's architecture: the variant's sizes, then what the config says."""
    return variant_config(**dataclasses.asdict(config.model))


def tokenizer_config(config: Config) -> VAVAEConfig:
    """The tokenizer's architecture."""
    return VAVAEConfig(**dataclasses.asdict(config.tokenizer))


def generator_options(
    compute: ComputeConfig, architecture: LightningDiTConfig, mesh: Mesh
) -> dict[str, Any]:
    """Arguments of LightningDiT that change its speed on the devices of a mesh, not its weights.

    Decided by those devices, which need not be this machine's. Raises ValueError for cuDNN's
    attention on devices that do not have it.
    """
    device, attention = mesh.devices.flat[0], compute.attention
    on_gpu = device.platform == "gpu"
    if attention == "cudnn" and not on_gpu:
        raise ValueError(
            f"config.compute.attention is 'cudnn', but the devices are {device.device_kind}; "
            "cuDNN is for NVIDIA GPUs, expected 'auto' or 'xla'"
        )
    if attention == "auto":
        dtype = jnp.dtype(compute.dtype)
        attention = choose_implementation(dtype, architecture.head_dim, device)
    # A loop copies every activation that it keeps, which a GPU takes a sixth of its time for.
    scan_unroll = compute.scan_unroll or (architecture.depth if on_gpu else 1)
    return {"attention": attention, "scan_unroll": scan_unroll}
