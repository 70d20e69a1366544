"""What is done next with what lies somewhere, as a command. Capitals are the user's to fill in."""

from etils import epath

from lightningdit_jax.assembly.registry import Role, model_of
from lightningdit_jax.assembly.workdir import CONFIG_FILE
from lightningdit_jax.command_text import command
from lightningdit_jax.configs import digits_dit, dit_xl
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.latents_record import read_record
from lightningdit_jax.hub import is_address
from lightningdit_jax.hub_folder import is_hub_folder

_TOKENIZER = ("--config=vavae_f16d32", "--workdir=WORKDIR")
_GENERATOR = ("--config=dit_xl", "--workdir=WORKDIR")


def with_weights(path: str, kind: str, tokenizer: str = "") -> list[str]:
    """What is done with a checkpoint, or the newest of a workdir, of this kind.

    tokenizer: that the run's config names.
    """
    role = model_of(kind).role
    of_run = not is_address(path) and (epath.Path(path) / CONFIG_FILE).exists()
    of_run = of_run and not is_hub_folder(epath.Path(path))
    if role is Role.GENERATOR:
        decoder = [] if tokenizer else ["--config.sample.tokenizer=TOKENIZER"]
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
    """The training of a generator on a folder of latents: what is not as published is said."""
    record = read_record(epath.Path(shards.folder)) or {}
    digits = record.get("images", {}).get("source") == "digits"
    name, of = ("digits_dit", digits_dit) if digits else ("dit_xl", dit_xl)
    height, _, channels = shards.shape
    classes = len(shards.class_names) or int(shards.labels.max()) + 1
    defaults = of.get_config().model
    found = {"in_channels": channels, "input_size": height, "num_classes": classes}
    changed = [f"--config.model.{k}={v}" for k, v in found.items() if v != defaults[k]]
    data = f"--config.data.path={shards.folder}"
    return [command(f"--config={name}", "--workdir=WORKDIR", data, *changed)]
