"""The models that a config names: architectures, and how a generator's blocks are run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lightningdit_jax.assembly.kernel_check import kernel_fault
from lightningdit_jax.config import ComputeConfig, Config
from lightningdit_jax.models.attention import choose_implementation
from lightningdit_jax.models.lightningdit_config import LightningDiTConfig, variant_config
from lightningdit_jax.models.pallas_attention import MAX_TOKENS, kernel_takes
from lightningdit_jax.models.vae import VAVAEConfig
from lightningdit_jax.parallel.chips import TPUS, chip_of
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.parallel.sharding import HeadsShard


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

    Decided by those devices, which need not be this machine's; where they are, "auto" takes
    attention's kernel for TPUs if it is right there, and says so if not. Raises ValueError for an
    attention that they do not have, that does not take these heads, or that is wrong.
    """
    device, attention = mesh.devices.flat[0], compute.attention
    on_gpu = device.platform == "gpu"
    if attention == "cudnn" and not on_gpu:
        raise ValueError(
            f"config.compute.attention is 'cudnn', but the devices are {device.device_kind}; "
            "cuDNN is for NVIDIA GPUs, expected 'auto' or 'xla'"
        )
    dtype, tokens = jnp.dtype(compute.dtype), architecture.grid**2
    heads = architecture.num_heads // mesh.shape["tensor"]
    on_tpu = device.platform == "tpu"
    chip = chip_of(device) or TPUS["v4"]  # the smallest
    takes = dtype == jnp.bfloat16 and kernel_takes(
        tokens, heads, architecture.head_dim, chip.vmem_bytes
    )
    if attention == "pallas" and not (on_tpu and takes):
        raise ValueError(
            "config.compute.attention is 'pallas', a kernel for TPUs, bfloat16, at most "
            f"{MAX_TOKENS} tokens and heads that fill columns of 128 channels and not more than "
            "the chip's vector memory; found "
            f"{device.device_kind}, {dtype}, {tokens} tokens and {heads} heads of "
            f"{architecture.head_dim} on a device; expected 'auto' or 'xla'"
        )
    fault = _kernel_fault(mesh, architecture, heads) if on_tpu and takes else ""
    if attention == "pallas" and fault:
        raise ValueError(
            f"config.compute.attention is 'pallas', but on {device.device_kind} {fault}; set it to "
            "'auto' or 'xla'"
        )
    if attention == "auto":
        if fault:
            print_once(f"attention's kernel is not taken: on {device.device_kind} {fault}")
        by_device = choose_implementation(dtype, architecture.head_dim, device)
        attention = "pallas" if on_tpu and takes and not fault else by_device
    # A loop copies every activation that it keeps, which a GPU takes a sixth of its time for.
    scan_unroll = compute.scan_unroll or (architecture.depth if on_gpu else 1)
    options = {"attention": attention, "scan_unroll": scan_unroll}
    return options | {"shard": HeadsShard(mesh)} if attention == "pallas" else options


def _kernel_fault(mesh: Mesh, architecture: LightningDiTConfig, num_heads: int) -> str:
    """As kernel_fault on a device of this process; empty for devices that are not there."""
    here = jax.local_devices()
    mine = next((device for device in mesh.devices.flat if device in here), None)
    return kernel_fault(mine, architecture, num_heads) if mine else ""
