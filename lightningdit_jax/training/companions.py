"""Networks trained beside the model, by the names that a checkpoint has them under."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from lightningdit_jax.config import Config
from lightningdit_jax.models.discriminator import Discriminator, DiscriminatorConfig
from lightningdit_jax.models.linear_proj import LinearProj, LinearProjConfig
from lightningdit_jax.training.alignment_losses import alignment_loss_of

# Of a tokenizer: its discriminator, and its projection into features.
DISCRIMINATOR, LINEAR_PROJ = "discriminator", "linear_proj"
# Of a generator whose tokenizer trains beside it (REPA-E): that, and the norm of its latents.
TOKENIZER, LATENT_NORM = "tokenizer", "latent_norm"


@dataclasses.dataclass(frozen=True)
class CompanionSpec:
    """A network's architecture and what makes it."""

    config: Any
    build: Callable[[nnx.Rngs], nnx.Module]


def tokenizer_companions(config: Config, feature_width: int | None) -> dict[str, CompanionSpec]:
    """The companions that the config's loss needs, by name.

    feature_width: of the foundation model, None where latents are not aligned.
    """
    companions = {}
    if config.vae_loss.disc_weight > 0:
        adversary = config.discriminator
        architecture = DiscriminatorConfig(
            in_channels=config.tokenizer.in_channels,
            ndf=adversary.ndf,
            num_layers=adversary.num_layers,
            norm=adversary.norm,
        )
        companions[DISCRIMINATOR] = CompanionSpec(
            architecture,
            lambda rngs: Discriminator(architecture, stat_groups=adversary.stat_groups, rngs=rngs),
        )
    alignment = alignment_loss_of(config.vae_loss)
    if feature_width is not None and alignment.projects:
        widths = (config.tokenizer.embed_dim, feature_width)
        projection = LinearProjConfig(*(widths if alignment.from_latents else widths[::-1]))
        companions[LINEAR_PROJ] = CompanionSpec(
            projection, lambda rngs: LinearProj(projection, rngs=rngs)
        )
    return companions
