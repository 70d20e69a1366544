"""The tokenizers that benchmarks/tokenizer_study.py compares, and the generator trained on each."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from lightningdit_jax import config as configs
from lightningdit_jax.config import Config
from lightningdit_jax.configs import digits_dit, digits_vavae

Changes = Mapping[str, Mapping[str, Any]]
_ONE_DEVICE: Changes = {
    "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "dcn_data": 1},
    "compute": {"remat": "none"},
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A tokenizer: channels of its latents, and what else it changes of its domain's first one."""

    name: str
    channels: int
    changes: Changes = dataclasses.field(default_factory=dict)

    def tokenizer(self, base: Config) -> Config:
        """Its config."""
        width = {"z_channels": self.channels, "embed_dim": self.channels}
        sections = {**self.changes, "tokenizer": {**width, **self.changes.get("tokenizer", {})}}
        return base.changed(**sections)

    def generator(self, base: Config) -> Config:
        """Of the generator of its latents: nothing but their channels differs."""
        return base.changed(model={"in_channels": self.channels})


def _aligned(loss: str, weight: float) -> Changes:
    return {
        "vae_loss": {"alignment": "vit", "alignment_loss": loss},
        "stages": {"vf_weight": (weight,)},
    }


def _kl(weight: float) -> Changes:
    return {"vae_loss": {"kl_weight": weight}}


# Without alignment and with a KL weight of 1e-3, where nothing else is said.
DIGITS = (
    Variant("d4", 4),
    Variant("d4, VF 0.1", 4, _aligned("vf", 0.1)),
    Variant("d2", 2),
    Variant("d8", 8),
    Variant("d4, KL 0.1", 4, _kl(0.1)),
    Variant("d16", 16),
    Variant("d4, CKA", 4, _aligned("cka", 1.0)),
    Variant("d4, KL 1e-6", 4, _kl(1e-6)),
    Variant("d4, VF 1", 4, _aligned("vf", 1.0)),
    Variant("d4, pool-align", 4, _aligned("pool_align", 1.0)),
    Variant("d4, soft-KL", 4, _aligned("soft_kl", 1.0)),
    Variant(
        "d4, VE",
        4,
        {"vae_loss": {"kl_weight": 0.0, "ve_weight": 0.01, "magnitude_weight": 1e-3}},
    ),
)
PHOTOGRAPHS = (
    Variant("d4", 4),
    Variant("d16", 16),
    Variant("d8", 8),
    Variant("d4, KL 0.1", 4, _kl(0.1)),
    Variant("d16, KL 0.1", 16, _kl(0.1)),
    Variant("d8, KL 1e-6", 8, _kl(1e-6)),
)


def digits_configs(foundation: pathlib.Path, steps: int) -> tuple[Config, Config]:
    """Of a tokenizer of digits in their own 8x8 pixels, and of its generator."""
    tokenizer = _tokenizer(steps).changed(
        tokenizer={"resolution": 8, "ch_mult": (1, 1)}, frozen={"foundation": str(foundation)}
    )
    return tokenizer, _generator(steps)


def photographs_configs(steps: int) -> tuple[Config, Config]:
    """Of a tokenizer of crops of 32x32, and of its generator."""
    tokenizer = _tokenizer(steps).changed(tokenizer={"resolution": 32, "ch_mult": (1, 1, 1, 1)})
    return tokenizer, _generator(steps).changed(model={"num_classes": 3})


def _tokenizer(steps: int) -> Config:
    """The demo's without an adversary, which would take half the time, and without alignment."""
    return configs.from_dict(digits_vavae.get_config()).changed(
        **_ONE_DEVICE,
        vae_loss={"disc_weight": 0.0, "alignment": "none"},
        tokenizer={"num_res_blocks": 0},
        train={"num_steps": steps, "batch_size": 32},
    )


def _generator(steps: int) -> Config:
    """The demo's, of two blocks of width 64, sampled without guidance."""
    return configs.from_dict(digits_dit.get_config()).changed(
        **_ONE_DEVICE,
        model={"depth": 2, "hidden_size": 64},
        optimizer={"learning_rate": 4e-3, "warmup_steps": 20},
        train={"num_steps": steps, "batch_size": 32, "accumulate_steps": 1, "ema_decay": 0.98},
        sample={"cfg_scale": 1.0, "num_steps": 16},
        evaluate={"train_samples": 1000},
    )
