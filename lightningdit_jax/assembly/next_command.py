"""What is done next with what lies somewhere, as a command. Capitals are the user's to fill in."""

import functools
from collections.abc import Callable
from typing import Any

from etils import epath

from lightningdit_jax.assembly.latents import is_tokenizer, tokenizer_of
from lightningdit_jax.assembly.registry import Role, model_of
from lightningdit_jax.assembly.workdir import CONFIG_FILE
from lightningdit_jax.command_text import command
from lightningdit_jax.configs import digits_dit, dit_xl, dit_xl_512, dit_xl_sdvae, photos_64
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.hub import is_address
from lightningdit_jax.hub_folder import is_hub_folder

_TOKENIZER = ("--config=vavae_f16d32", "--workdir=WORKDIR")
_GENERATOR = ("--config=dit_xl", "--workdir=WORKDIR")
# By the shapes of latents that they are made for.
_GENERATORS: dict[str, Callable[[], Any]] = {
    "dit_xl": dit_xl.get_config,
    "dit_xl_512": dit_xl_512.get_config,
    "dit_xl_sdvae": dit_xl_sdvae.get_config,
    "digits_dit": digits_dit.get_config,
    "photos_64:generator": functools.partial(photos_64.get_config, "generator"),
}


def with_weights(path: str, kind: str, tokenizer: str = "", latents: str = "") -> list[str]:
    """What is done with a checkpoint, or the newest of a workdir, of this kind.

    tokenizer: that the run's config names, or `path` where it lies there; latents: the folder that
    it trained on.
    """
    role = model_of(kind).role
    of_run = not is_address(path) and (epath.Path(path) / CONFIG_FILE).exists()
    of_run = of_run and not is_hub_folder(epath.Path(path))
    if role is Role.GENERATOR:
        known = tokenizer if tokenizer == path or (tokenizer and is_tokenizer(tokenizer)) else ""
        known = known or tokenizer_of(latents) or tokenizer or "TOKENIZER"
        said = known == path or (of_run and known == tokenizer)
        decoder = [] if said else [f"--config.sample.tokenizer={known}"]
        if of_run:
            return [command(f"--config={path}", "--mode=sample", *decoder)]
        taken = f"--config.sample.checkpoint={path}"
        return [command(*_GENERATOR, "--mode=sample", taken, *decoder)]
    if role is Role.TOKENIZER:
        if of_run:
            return [command(f"--config={path}", "--mode=extract")]
        source = ("--config.data.path=IMAGES", f"--config.extract.checkpoint={path}")
        return [command(*_TOKENIZER, "--mode=extract", *source)]
    if role is Role.FOUNDATION:
        return [command(*_TOKENIZER, f"--config.frozen.foundation={path}")]
    if kind == "lpips":
        return [command(*_TOKENIZER, f"--config.frozen.lpips={path}")]
    if kind == "inception":
        return [command(*_GENERATOR, "--mode=evaluate", f"--config.evaluate.inception={path}")]
    return []


def with_latents(shards: LatentShards) -> list[str]:
    """The training of a generator on a folder of latents, by the config of their shape.

    Of no config's shape, the published one with what differs.
    """
    height, _, channels = shards.shape
    shape = {"in_channels": channels, "input_size": height}
    models = {name: make().model for name, make in _GENERATORS.items()}
    fitting = [name for name, m in models.items() if all(m[k] == v for k, v in shape.items())]
    name = fitting[0] if fitting else "dit_xl"
    classes = len(shards.class_names) or int(shards.labels.max()) + 1
    defaults, found = models[name], {**shape, "num_classes": classes}
    changed = [f"--config.model.{k}={v}" for k, v in found.items() if v != defaults[k]]
    data = f"--config.data.path={shards.folder}"
    return [command(f"--config={name}", "--workdir=WORKDIR", data, *changed)]
