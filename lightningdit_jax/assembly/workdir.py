"""What a workdir and a checkpoint remember of the config they were made with."""

import dataclasses
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

from etils import epath

from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.assembly.registry import architecture
from lightningdit_jax.atomic_file import read_json, write_json
from lightningdit_jax.checkpoint import architecture_fields, find_checkpoint
from lightningdit_jax.config import Config, from_dict
from lightningdit_jax.config_choices import Choice
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_jobs import check_choices, check_given, is_read, is_taken
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling

CONFIG_FILE = "config.json"
NO_DEFAULTS: Mapping[str, Any] = types.MappingProxyType({})


def write_config(config: Config, workdir: str) -> None:
    """Writes WORKDIR/config.json, local or gs://."""
    write_json(epath.Path(workdir) / CONFIG_FILE, config.to_dict())


def read_config(workdir: str, defaults: Mapping[str, Any] = NO_DEFAULTS) -> Config | None:
    """The config in WORKDIR/config.json, None where there is no such file.

    defaults: values, nested, of keys that are younger than the file; without them it has to hold
    all. Raises ValueError naming the file where it is damaged or of other keys than this program's.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    if not path.exists():
        return None
    try:
        return from_dict(_filled(read_json(path), defaults))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no config of this program: {error}") from error


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, with defaults where one is missing."""
    filled = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping):
            filled[name] = _filled(filled[name], default)
    return filled


def check_command_line(
    config: Config,
    given: Collection[str],
    jobs: Collection[str],
    workdir: str,
    choices: Collection[Choice],
    defaults: Mapping[str, Any] = NO_DEFAULTS,
) -> None:
    """Raises ValueError for a key given on the command line that none of the jobs reads.

    Nor may it be one that what config says of a choice, as data.source, leaves unread, and what it
    says of one has to be a name that there is.
    given: the keys. One that restates what WORKDIR/config.json holds passes; defaults: as in
    read_config.
    """
    check_choices(config.value, choices)
    unread = [key for key in given if not is_read(key, jobs, config.value, choices)]
    stored = read_config(workdir, defaults) if unread else None
    if stored is not None:
        unread = [key for key in unread if stored.value(key) != config.value(key)]
    check_given(unread, jobs, config.value, choices)


def check_taken(
    config: Config,
    given: Collection[str],
    job: str,
    path: str,
    say: Callable[[str], None],
) -> None:
    """Compares a config with the checkpoint at `path` that a job takes its model from.

    given: keys of the command line. What a config file says otherwise is overruled, which `say`
    is told in a line. Raises ValueError with both values for a key of the command line, and
    FileNotFoundError.
    """
    there = remembered(model_meta(find_checkpoint(path)))
    there = {key: value for key, value in there.items() if is_taken(key, job)}
    here = _stated(config, there)
    differing = [key for key in there if here[key] != there[key]]
    for key in differing:
        # The variant decides the sizes that are not given.
        cause = key if config.value(key) is not None else "model.variant"
        if cause in given:
            means = "" if cause == key else f" which means {key} {here[key]},"
            raise ValueError(
                f"config.{cause} is {config.value(cause)} on the command line,{means} but {path} "
                f"was trained with {there[key]}; leave it out, or name another checkpoint"
            )
    if differing:
        values = ", ".join(f"config.{key} {there[key]} (not {here[key]})" for key in differing)
        say(f"{path} was trained otherwise than the config file says and is followed: {values}")


def remembered(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Values of config keys that a checkpoint's meta tells, also one of converted weights."""
    section = {"lightningdit": "model", "vavae": "tokenizer"}.get(meta["kind"])
    # Fields that are younger than the checkpoint have their defaults.
    fields = dataclasses.asdict(architecture(meta["kind"], architecture_fields(meta)))
    known = key_types(Config)
    values = {f"{section}.{name}": value for name, value in fields.items()}
    # Published weights may be of an architecture that no key makes.
    values = {key: value for key, value in values.items() if key in known}
    if section != "model":
        return values
    flow, scaling = Flow.from_meta(meta), LatentScaling.from_meta(meta.get("latents"))
    values |= {"flow.path": flow.path, "flow.prediction": flow.prediction}
    if scaling is not None:
        values |= {
            "data.latent_norm": scaling.mean is not None,
            "data.latent_multiplier": scaling.multiplier,
        }
    return values


def _stated(config: Config, keys: Collection[str]) -> dict[str, Any]:
    """What a config says of these keys, sizes of the generator as its variant has them."""
    architectures: dict[str, Callable[[Config], Any]] = {
        "model": generator_config,
        "tokenizer": tokenizer_config,
    }
    values = {}
    for key in keys:
        section, _, name = key.partition(".")
        if section in architectures:
            values[key] = dataclasses.asdict(architectures[section](config))[name]
        else:
            values[key] = config.value(key)
    return values
