"""diffusers' config.json beside an autoencoder: it says what the tensors do not tell."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.errors import ConversionError, unknown_name
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.vae_config import ACTIVATIONS, VAVAEConfig

# What diffusers' AutoencoderKL takes where its config.json, of an older version, does not say.
_DEFAULTS = {
    "norm_num_groups": 32,
    "act_fn": "silu",
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
_WITHOUT_EFFECT = ("sample_size", "force_upcast")  # on values in float32


@dataclasses.dataclass(frozen=True)
class DiffusersConfig:
    """A config.json of diffusers' AutoencoderKL. values: its keys, defaults filled in."""

    path: epath.Path
    values: Mapping[str, Any]

    def hints(self, given: Hints) -> Hints:
        """The hints completed. Raises ValueError where they contradict the file."""
        groups, act_fn = self.values["norm_num_groups"], self.values["act_fn"]
        if type(groups) is not int or groups < 1:
            raise ValueError(f"{self.path}: norm_num_groups is {groups!r}; expected 1 or more")
        if not isinstance(act_fn, str) or act_fn not in ACTIVATIONS:
            raise ValueError(f"{self.path}: {unknown_name('act_fn', act_fn, tuple(ACTIVATIONS))}")
        for option, value, found in (
            ("--norm-groups", given.norm_groups, groups),
            ("--act-fn", given.act_fn, act_fn),
        ):
            if value not in (None, found):
                raise ValueError(
                    f"{option} is {value}, but {self.path} says {found}; leave the option out"
                )
        return dataclasses.replace(given, norm_groups=groups, act_fn=act_fn)

    def check(self, config: VAVAEConfig) -> None:
        """Raises ConversionError listing the values that contradict what the tensors tell."""
        told = _told_by_tensors(config)
        problems = [
            f"{key} is {self.values[key]}, but the tensors tell {want}"
            for key, want in told.items()
            if key in self.values and self.values[key] != want
        ]
        for key in ("latents_mean", "latents_std"):
            if isinstance(self.values[key], list) and len(self.values[key]) != config.embed_dim:
                problems.append(
                    f"{key} has {len(self.values[key])} numbers, but the tensors tell "
                    f"{config.embed_dim} channels"
                )
        if problems:
            raise ConversionError(f"{self.path} is not the one of these tensors:", problems)

    def scaling(self, config: VAVAEConfig) -> LatentScaling:
        """How diffusers scales its latents for a generator. Raises ValueError naming the file."""
        mean, std, shift = (
            self.values[key] for key in ("latents_mean", "latents_std", "shift_factor")
        )
        if shift and (mean is not None or std is not None):
            raise ValueError(
                f"{self.path} has both shift_factor and latents_mean or latents_std; expected one"
            )
        if shift:
            mean, std = [shift] * config.embed_dim, [1.0] * config.embed_dim
        try:
            return LatentScaling(mean, std, self.values["scaling_factor"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: {error}") from error

    def unread(self, config: VAVAEConfig) -> list[str]:
        """The keys that nothing here knows."""
        known = {*_DEFAULTS, *_WITHOUT_EFFECT, *_told_by_tensors(config)}
        return sorted(key for key in self.values if key not in known and not key.startswith("_"))


def diffusers_config(config: VAVAEConfig, scaling: LatentScaling) -> dict[str, Any]:
    """The config.json of an autoencoder: what `read_diffusers_config` reads.

    Raises ValueError for an architecture that diffusers' AutoencoderKL does not have.
    """
    if config.z_channels != config.embed_dim or not config.use_variational:
        raise ValueError(
            f"an autoencoder with z_channels {config.z_channels}, embed_dim {config.embed_dim} and "
            f"use_variational {config.use_variational} is no AutoencoderKL of diffusers; expected "
            "equal channels and a variational one. --to-torch writes it"
        )
    mean, std = scaling.mean, scaling.std
    shift = None
    if mean is not None and len({*mean}) == 1 and set(std or ()) == {1.0}:
        shift, mean, std = mean[0], None, None
    return {
        "_class_name": "AutoencoderKL",
        **_told_by_tensors(config),
        "act_fn": config.activation,
        "force_upcast": True,
        "latents_mean": mean,
        "latents_std": std,
        "norm_num_groups": config.num_groups,
        "sample_size": config.resolution,
        "scaling_factor": scaling.multiplier,
        "shift_factor": shift,
    }


def read_diffusers_config(folder: epath.Path) -> DiffusersConfig | None:
    """The config.json of a folder, None where there is none.

    Raises ValueError if it is damaged or is not that of an AutoencoderKL.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    values = read_json(path)
    kind = values.get("_class_name")
    if kind != "AutoencoderKL":
        raise ValueError(
            f"{path} is of {kind!r}; expected 'AutoencoderKL' as _class_name. Put the weights into "
            "a folder with the config.json that they were saved with"
        )
    return DiffusersConfig(path, {**_DEFAULTS, **values})


def complete_hints(name: str, hints: Hints, settings: DiffusersConfig | None) -> Hints:
    """The hints with what the tensors of the file `name` do not tell.

    Raises ConversionError asking for it where neither the hints nor the settings say it.
    """
    if settings is not None:
        return settings.hints(hints)
    options = {
        "--norm-groups, the groups of GroupNorm (Stable Diffusion: 32)": hints.norm_groups,
        "--act-fn, the activation (Stable Diffusion: silu)": hints.act_fn,
    }
    if missing := [option for option, value in options.items() if value is None]:
        raise ConversionError(
            f"{name} has diffusers' names, whose tensors do not tell everything; put the "
            "config.json that it was saved with beside it, or give",
            missing,
        )
    return hints


def _told_by_tensors(config: VAVAEConfig) -> dict[str, Any]:
    """The keys of config.json that the architecture answers, with its answers."""
    sides = [config.resolution >> level for level in range(len(config.ch_mult))]
    down = [_block("DownEncoderBlock2D", s in config.encoder_attn_resolutions) for s in sides]
    up = [_block("UpDecoderBlock2D", s in config.decoder_attn_resolutions) for s in sides]
    return {
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "latent_channels": config.embed_dim,
        "block_out_channels": [config.ch * factor for factor in config.ch_mult],
        "layers_per_block": config.num_res_blocks,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "mid_block_add_attention": True,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
    }


def _block(name: str, attention: bool) -> str:
    return f"Attn{name}" if attention else name
