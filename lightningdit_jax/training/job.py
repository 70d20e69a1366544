"""What a run trains, made from its config: model, data, train step and description."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.data.latents import LatentShards, load_stats
from lightningdit_jax.data.pipeline import BatchSource, ImageBatches, LatentBatches
from lightningdit_jax.data.sources import open_images
from lightningdit_jax.models.lightningdit import LightningDiT, LightningDiTConfig, variant_dims
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.parallel.sharding import (
    LIGHTNINGDIT_RULES,
    VAVAE_RULES,
    Rules,
    constrain_tokens,
)
from lightningdit_jax.training.dit_step import make_dit_step
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.vae_step import make_vae_step

StepFn = Callable[[TrainState, dict], tuple[TrainState, dict]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A model with its data and its step.

    build(rngs) makes the module, make_step(graphdef, config, optimizer) its step; source reads
    batches, and is None where nothing is run; description goes into checkpoints: architecture, and
    latent statistics of a generator.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    make_step: Callable[[nnx.GraphDef, Config, optax.GradientTransformation], StepFn]
    rules: Rules
    source: BatchSource | None
    description: dict[str, Any]

    def graphdef(self) -> nnx.GraphDef:
        """The module's structure, without making its arrays."""
        return nnx.graphdef(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))

    def init_params(self, seed: int) -> Any:
        """Fresh parameters as a nested dict."""
        return nnx.to_pure_dict(nnx.state(self.build(nnx.Rngs(seed)), nnx.Param))


def make_job(config: Config, mesh: Mesh) -> Job:
    """The job of a config. Opens and checks its data. Raises what bad data or values raise."""
    return _generator_job(config, mesh) if config.kind == "lightningdit" else _tokenizer_job(config)


def generator_config(config: Config) -> LightningDiTConfig:
    """The generator's architecture: the variant's sizes, then what the config says."""
    fields = dataclasses.asdict(config.model)
    sizes = variant_dims(fields.pop("variant"))
    chosen = {name: fields.pop(name) for name in sizes}
    sizes |= {name: value for name, value in chosen.items() if value is not None}
    return LightningDiTConfig(**fields, **sizes)


def tokenizer_config(config: Config) -> VAVAEConfig:
    """The tokenizer's architecture."""
    return VAVAEConfig(**dataclasses.asdict(config.tokenizer))


def abstract_generator_job(config: Config, mesh: Mesh) -> Job:
    """A generator's job without data: enough to compile its step."""
    architecture, compute = generator_config(config), config.compute

    def build(rngs: nnx.Rngs) -> LightningDiT:
        return LightningDiT(
            architecture,
            dtype=jnp.dtype(compute.dtype),
            remat=compute.remat,
            scan_unroll=compute.scan_unroll,
            attention=compute.attention,
            constrain=constrain_tokens(mesh),
            rngs=rngs,
        )

    description = {"architecture": dataclasses.asdict(architecture)}
    return Job(build, make_dit_step, LIGHTNINGDIT_RULES, None, description)


def _generator_job(config: Config, mesh: Mesh) -> Job:
    architecture = generator_config(config)
    data = config.data
    if data.source != "latents":
        raise ValueError(
            f"config.data.source is '{data.source}', but a generator trains on 'latents'; "
            "make them from images with the tokenizer's config and --mode=extract"
        )
    if not data.path:
        raise ValueError("config.data.path is empty; set it to a folder of latent shards")
    shards = LatentShards(data.path)
    shards.check(
        in_channels=architecture.in_channels,
        input_size=architecture.input_size,
        num_classes=architecture.num_classes,
    )
    stats = load_stats(data.path) if data.latent_norm else None
    source = LatentBatches(shards, stats, data.latent_multiplier)

    latents = {
        "mean": None if stats is None else stats.mean.tolist(),
        "std": None if stats is None else stats.std.tolist(),
        "multiplier": data.latent_multiplier,
    }
    job = abstract_generator_job(config, mesh)
    return dataclasses.replace(
        job, source=source, description=job.description | {"latents": latents}
    )


def _tokenizer_job(config: Config) -> Job:
    architecture = tokenizer_config(config)
    data = config.data
    images = open_images(
        data.source,
        path=data.path,
        split=data.split,
        size=architecture.resolution,
        tfds_name=data.tfds_name,
    )
    source = ImageBatches(
        images,
        resolution=architecture.resolution,
        augment=data.augment,
        num_threads=data.num_threads,
    )

    def build(rngs: nnx.Rngs) -> VAVAE:
        return VAVAE(architecture, dtype=jnp.dtype(config.compute.dtype), rngs=rngs)

    description = {"architecture": dataclasses.asdict(architecture)}
    return Job(build, make_vae_step, VAVAE_RULES, source, description)
