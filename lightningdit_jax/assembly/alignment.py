"""The foundation model that a config aligns a tokenizer's latents with."""

from lightningdit_jax.assembly.registry import MODELS, Role, kinds_of
from lightningdit_jax.config import Config
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.models.foundation import Normalization

NONE = "none"


def check_alignment(config: Config) -> None:
    """Raises ValueError for a model that is no foundation model, or is to be shown what it is not.

    Whatever else the config says: a wrong name is one for any job.
    """
    kind, known = config.vae_loss.alignment, kinds_of(Role.FOUNDATION)
    if kind not in (NONE, *known):
        names = (*known, NONE)
        raise ValueError(unknown_name("value of config.vae_loss.alignment", kind, names))
    if kind != NONE:
        foundation_normalization(config)


def alignment_kind(config: Config) -> str | None:
    """The kind of foundation model that some stage aligns the latents with; None for none.

    Raises ValueError as check_alignment.
    """
    check_alignment(config)
    is_aligned = config.vae_loss.alignment != NONE and max(config.stages.vf_weight) > 0
    return config.vae_loss.alignment if is_aligned else None


def foundation_normalization(config: Config) -> Normalization | None:
    """How pixels are normalized for the foundation model; None shows [-1, 1] as it is.

    Raises ValueError where it is to be as in its training, which of this kind nobody knows.
    """
    if config.frozen.foundation_normalize == "parity":
        return None
    kind = config.vae_loss.alignment
    normalization = MODELS[kind].normalization
    if normalization is None:
        raise ValueError(
            f"config.frozen.foundation_normalize is 'trained', but what a {kind} was trained with "
            "is not known; set it to 'parity', which shows pixels in [-1, 1]"
        )
    return normalization
