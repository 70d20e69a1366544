"""--help, which lists modes and configs, and --help=KEY, which explains keys. Imports no JAX."""

import json
import pathlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from lightningdit_jax.command_text import command
from lightningdit_jax.commands.config_argument import given_config
from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.commands.named_configs import NAMES, config_file, summary

_ALIKE = ("--help", "-help", "-h", "-?", "--helpshort")
_EVERY = "keys"


def asked_for(arguments: Sequence[str]) -> str | None:
    """What help is asked about: "" in general, a key or a part of one; None for none."""
    for argument in arguments:
        if argument in _ALIKE:
            return ""
        for name in _ALIKE[:2]:
            if argument.startswith(f"{name}="):
                return argument.removeprefix(f"{name}=")
    return None


def general(own: Iterable[flags.FlagHolder]) -> str:
    """The text of --help. own: the flags besides those that it explains."""
    modes = {name: mode.line for name, mode in MODES.items()}
    configs = {name: summary(name) for name in NAMES}
    others = {f"--{flag.name}": flags.FLAGS[flag.name].help or "" for flag in own}
    keys = {
        f"--help={_EVERY}": "all of them, with their defaults",
        "--help=train": "a section; so also --help=train.init, or a part of a name, --help=cfg",
        "--config=dit_xl --help=train": "the values of that config",
    }
    usage = command("--config=CONFIG", "--workdir=FOLDER")
    return "\n".join(
        [
            "LightningDiT and VA-VAE: train, extract, sample, evaluate.",
            "",
            f"  {usage} [--mode=MODE] [--config.KEY=VALUE ...]",
            "",
            "--mode",
            *_table(modes),
            "",
            "--config: one of these, a file, the workdir of a training, or a yaml of the release",
            *_table(configs),
            "",
            "keys, each set by --config.KEY=VALUE",
            *_table(keys),
            "",
            "other flags",
            *_table(others),
        ]
    )


def of_keys(asked: str, arguments: Sequence[str]) -> str:
    """What a key, a section, or keys with a part of a name are, with their values.

    arguments: those that may say --config. Raises ValueError for no key.
    """
    from lightningdit_jax.config import Config
    from lightningdit_jax.config_comments import key_comments
    from lightningdit_jax.config_fields import key_types
    from lightningdit_jax.errors import unknown_name

    comments, keys = key_comments(), tuple(key_types(Config))
    asked = asked.removeprefix("config.")
    chosen = [k for k in keys if k == asked or k.startswith(f"{asked}.") or asked == _EVERY]
    chosen = chosen or [k for k in keys if asked and asked in k]
    if not chosen:
        raise ValueError(unknown_name("config key", asked, keys))
    given = given_config(arguments)
    defaults = config_values("base")
    values = defaults if given is None else {**defaults, **config_values(given)}
    lines, section = [], ""
    for key in chosen:
        if "." in key and key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += ["", *_wrapped(comments[section])] if comments[section] else [""]
        other = "" if values[key] == defaults[key] else f"  (not {shown(defaults[key])})"
        lines.append(f"  --config.{key}={shown(values[key])}{other}")
        lines += _wrapped(comments[key], "      ")
    return "\n".join(lines).strip("\n")


def config_values(given: str) -> dict[str, Any]:
    """Values of a config by dotted key: of a name, a file, or a workdir's config.json."""
    path, _, row = given.partition(":")
    if (written := pathlib.Path(given) / "config.json").is_file():
        return _flat(json.loads(written.read_text()))
    if not pathlib.Path(path).is_file():
        path = config_file(path)
    if not path.endswith(".py"):
        raise ValueError(
            f"--config={given}: expected the name of a config, a Python file or a workdir; its "
            "keys can be explained without it"
        )
    names: dict[str, Any] = {"__file__": path, "__name__": "config"}
    exec(compile(pathlib.Path(path).read_text(), path, "exec"), names)
    return _flat(names["get_config"](*[row] if row else []).to_dict())


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key; JSON's lists are tuples."""
    from lightningdit_jax.config_fields import flattened

    return {k: tuple(v) if isinstance(v, list) else v for k, v in flattened(nested).items()}


def shown(value: Any) -> str:
    """As it can be typed: tuples with commas."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return "" if value is None else str(value)


def _table(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name:{width}}  {text}" for name, text in rows.items()]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 96, initial_indent=indent, subsequent_indent=indent)
