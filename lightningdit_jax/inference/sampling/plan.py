"""The plan of a sampler on a mesh."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.parallel.mesh import num_batch_shards
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.memory import held_bytes
from lightningdit_jax.planning.sampler import Drawing, SamplerPlan, sampler_plan

_WIDTH = 128  # of a decoder of another kind, taken for the published one's


def plan_sampler(
    config: Config,
    mesh: Mesh,
    generator: LightningDiTConfig,
    tokenizer: Any,
    weights: Mapping[str, Any],
    num_images: int | None = None,
    resident: Any = (),
) -> SamplerPlan:
    """What config.sample leaves "auto", for networks on a mesh, see planning.sampler.

    tokenizer: the module. weights: arrays or ShapeDtypeStructs with shardings, by network;
    num_images: that are asked for, None is many. resident: a tree of what else is on the devices.
    Raises ValueError as sampler_plan.
    """
    hardware = Hardware.of(list(mesh.devices.flat))
    drawing = Drawing(
        generator=generator,
        resolution=generator.input_size * tokenizer.downsample_factor,
        decoder_width=tokenizer.config.ch if isinstance(tokenizer, VAVAE) else _WIDTH,
        weight_bytes=held_bytes(weights, hardware.platform),
        dtype=config.compute.dtype,
        platform=hardware.platform,
        shards=num_batch_shards(mesh),
        num_images=num_images,
        resident_bytes=held_bytes(resident, hardware.platform),
    )
    return sampler_plan(config.sample, hardware, drawing)
