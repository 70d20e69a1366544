"""What a folder of latents tells: their scaling, and the tokenizer that made them."""

import dataclasses

from etils import epath

from lightningdit_jax.assembly.loading import check_kind
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.config import DataConfig
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.data.latents_record import read_record
from lightningdit_jax.hub import is_address
from lightningdit_jax.latent_scaling import LatentScaling


def scaling_of(data: DataConfig) -> LatentScaling:
    """data.latent_norm by the statistics in data.path, and data.latent_multiplier.

    Raises FileNotFoundError and ValueError as load_stats.
    """
    stats = load_stats(data.path) if data.latent_norm else LatentScaling()
    return dataclasses.replace(stats, multiplier=data.latent_multiplier)


def tokenizer_of(latents: str) -> str:
    """The checkpoint or workdir of the tokenizer that made a folder of latents; "" if not known.

    That which the folder's record names, or the workdir that the folder lies in, where there is one
    still. By its fingerprint it is compared when it is loaded.
    """
    if not latents:
        return ""
    folder = epath.Path(latents)
    try:
        named = (read_record(folder) or {}).get("tokenizer_path", "")
    except (OSError, ValueError):  # whoever reads the latents says so
        return ""
    return next((p for p in (named, str(folder.parent)) if p and is_tokenizer(p)), "")


def its_checkpoint(latents: str) -> str:
    """What config.sample.tokenizer is to be set to, in words, with its path where that is known."""
    made_by = tokenizer_of(latents)
    return f"the tokenizer's checkpoint{f', {made_by}' if made_by else ''}"


def is_tokenizer(path: str) -> bool:
    """Whether a checkpoint or a workdir is there and can be sampled with; the hub is not asked."""
    if is_address(path):
        return True
    try:
        check_kind(path, Role.TOKENIZER)
    except (OSError, ValueError):
        return False
    return True
