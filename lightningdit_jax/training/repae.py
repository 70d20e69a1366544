"""REPA-E: what is trained beside a generator whose tokenizer learns too, and what that needs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.models.latent_norm import LatentNorm, latent_scaling_of
from lightningdit_jax.training.companions import LATENT_NORM, TOKENIZER
from lightningdit_jax.training.repa import check_repa
from lightningdit_jax.training.state import TrainState


def check_repae(config: Config) -> None:
    """Raises ValueError for keys that do not go with a tokenizer that trains."""
    said = f"config.repae.weight is {config.repae.weight}, but config."
    if config.repa.features != "computed":
        raise ValueError(
            f"{said}repa.features is '{config.repa.features}', and the tokenizer learns of the "
            "images by these features alone; set it to 'computed', and config.frozen.foundation to "
            "a checkpoint of a vision model"
        )
    if config.optimizer.name.startswith("muon"):
        raise ValueError(
            f"{said}optimizer.name is '{config.optimizer.name}', which knows the matrices of a "
            "generator alone; expected 'adamw' or 'lion'"
        )
    if config.compute.products == "float8":
        raise ValueError(
            f"{said}compute.products is 'float8', whose scales are of one pass a step, and here "
            "are two; set it to 'dtype'"
        )
    generator, tokenizer = generator_config(config), tokenizer_config(config)
    side, factor = tokenizer.resolution, tokenizer.downsample_factor
    takes = (generator.input_size, generator.in_channels)
    gives = (side // factor, tokenizer.embed_dim)
    if takes != gives:
        raise ValueError(
            f"config.tokenizer makes latents of {gives[0]}x{gives[0]} and {gives[1]} channels, but "
            f"config.model takes {takes[0]}x{takes[0]} and {takes[1]}; set model.input_size and "
            "model.in_channels, or the tokenizer's keys"
        )


def check_repae_run(config: Config) -> None:
    """As check_repae and check_repa, and of what is done in a run beside its steps."""
    check_repae(config)
    said = f"config.repae.weight is {config.repae.weight}, but config."
    if config.data.source == "latents":
        raise ValueError(
            f"{said}data.source is 'latents', which a tokenizer that trains makes by itself; set "
            "it to a source of images, such as 'folder'"
        )
    for key in ("evaluate_every_steps", "picture_every_steps"):
        if every := getattr(config.train, key):
            raise ValueError(
                f"{said}train.{key} is {every}, which is of a tokenizer that does not change; set "
                "it to 0, and look at the run's checkpoints by --mode=sample and --mode=evaluate"
            )
    check_repa(config)


def check_classes(config: Config, images: ImageSource) -> None:
    """Raises ValueError for images of more classes than the generator has."""
    there, here = images.num_classes, generator_config(config).num_classes
    if there > here:
        raise ValueError(
            f"config.data.path={config.data.path} holds images of {there} classes, but the model "
            f"has num_classes={here}; set config.model.num_classes={there}"
        )


def build_latent_norm(config: Config, rngs: nnx.Rngs) -> LatentNorm:
    """The norm between tokenizer and generator, which draws nothing."""
    del rngs
    return LatentNorm(tokenizer_config(config).embed_dim, momentum=config.repae.bn_momentum)


def described(state: TrainState) -> dict[str, Any]:
    """What a checkpoint says of the latents of a state: how they are scaled outside of training."""
    stats: Mapping[str, Any] = jax.device_get(state.companions[LATENT_NORM].stats)
    return {"latents": latent_scaling_of(stats["mean"], stats["var"]).to_meta()}


def described_tokenizer(config: Config) -> dict[str, Any]:
    """The tokenizer among the companions that a checkpoint describes: a checkpoint's own fields."""
    architecture = dataclasses.asdict(tokenizer_config(config))
    return {TOKENIZER: {"kind": "vavae", "architecture": architecture}}


def tokenizer_remat(remat: str) -> str:
    """What a tokenizer keeps for its backward pass, by what the blocks of its generator keep."""
    return {"none": "none", "block": "block"}.get(remat, "conv")
