"""What --config=VALUE may be: a file, the name of one, a workdir, or a yaml of the release."""

import json
import pathlib
import re
from collections.abc import Sequence

from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.commands.named_configs import FOLDER, config_file, no_such_config


def complete(arguments: list[str]) -> list[str]:
    """Modes that stand alone need neither config nor workdir: empty ones are put in.

    arguments: in one spelling, --config first.
    """
    alone = "|".join(name for name, mode in MODES.items() if mode.alone)
    if not re.search(rf"(^| )--?mode[= ]({alone})( |$)", " ".join(arguments)):
        return arguments
    if given_config(arguments) is None:
        arguments = [f"--config={FOLDER / 'base.py'}", *arguments]
    return arguments if _has_workdir(arguments) else [*arguments, "--workdir="]


def given_config(arguments: Sequence[str]) -> str | None:
    """What --config says, None where it is not given. arguments: in one spelling."""
    first = arguments[0] if arguments else ""
    return first.removeprefix("--config=") if first.startswith("--config=") else None


def defaults() -> dict:
    """Values of keys that are younger than a workdir: what was done before they came."""
    from lightningdit_jax.configs import base

    return base.get_config().to_dict()


def config_flags_of(value: str, arguments: Sequence[str]) -> list[str]:
    """The flags that stand for --config=VALUE, which is a path that exists or else a name.

    A path is FILE, FILE:ROW, the workdir of a training, or a yaml file of the release, of which
    the keys are printed. arguments: all of them. Raises ValueError for another one.
    """
    from lightningdit_jax.assembly.workdir import CONFIG_FILE, read_config
    from lightningdit_jax.release_config.reading import SUFFIXES, import_yaml

    if not value.isprintable():
        raise ValueError(f"--config={value!r}: there is no such file; see configs/")
    if "://" not in value and pathlib.Path(value.partition(":")[0]).is_file():
        if pathlib.Path(value).suffix not in SUFFIXES:
            return [f"--config={value}"]
        imported = import_yaml(value)
        print(*imported.rows, sep="\n")
        return [_written(imported.nested())]
    is_folder = "://" in value or pathlib.Path(value).is_dir()
    config = read_config(value, defaults()) if is_folder else None
    if config is None:
        if named := config_file(value):
            return [f"--config={named}"]
        if not is_folder:
            raise ValueError(no_such_config(value))
        raise ValueError(
            f"--config={value}: there is no {CONFIG_FILE} in it, which training writes; expected "
            "a config file, the name of one, the workdir of a training run, or a yaml file of the "
            "release"
        )
    written = _written(config.to_dict())
    return [written] if _has_workdir(arguments) else [written, f"--workdir={value}"]


def _has_workdir(arguments: Sequence[str]) -> bool:
    return any(re.match("--?workdir(=|$)", argument) for argument in arguments)


def _written(values: dict) -> str:
    """The flag that stands for the values of a config, nested."""
    return f"--config={FOLDER / 'workdir.py'}:{json.dumps(values)}"
