"""Whether networks that sample together are made for each other."""

import dataclasses

from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiTConfig


@dataclasses.dataclass(frozen=True)
class GeneratorMeaning:
    """What a generator's output means. scaling: of its latents, None where nobody knows."""

    config: LightningDiTConfig
    flow: Flow
    scaling: LatentScaling | None


def check_tokenizer(generator: LightningDiTConfig, embed_dim: int, tokenizer: str) -> None:
    """Raises ValueError unless the tokenizer decodes latents of the generator's channels."""
    if generator.in_channels != embed_dim:
        raise ValueError(
            f"the generator makes latents of {generator.in_channels} channels, the tokenizer "
            f"{tokenizer} decodes {embed_dim}"
        )


def check_weak(ours: GeneratorMeaning, weak: GeneratorMeaning, name: str) -> None:
    """Raises ValueError unless the weak generator of that name can guide ours (autoguidance)."""
    theirs, mine = (dataclasses.asdict(g.config) | dataclasses.asdict(g.flow) for g in (weak, ours))
    for key in ("input_size", "in_channels", "num_classes", "path", "prediction"):
        if theirs[key] != mine[key]:
            raise ValueError(
                f"the weak generator {name} has {key} {theirs[key]}, the generator {mine[key]}; "
                "autoguidance needs two models of the same latents, classes and flow"
            )
    if weak.scaling is not None and weak.scaling != ours.scaling:
        raise ValueError(
            f"the weak generator {name} was trained on latents scaled otherwise: {weak.scaling}, "
            f"the generator {ours.scaling}; autoguidance needs two models of the same latents"
        )
