"""Overrides on the command line, in one spelling."""

import re
from collections.abc import Sequence

from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types, takes_words
from lightningdit_jax.errors import unknown_name

# What the flags library takes for the config file or for one of its keys.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_OURS = re.compile(r"--?(no)?config(?:\.([^=]*))?(?:=(.*))?", re.DOTALL)


def canonical(arguments: Sequence[str]) -> list[str]:
    """The same arguments as `--config=FILE`, `--config.key=value`, and then all others.

    Of a key, or file, that is given more than once the last value holds. `-config.key=value`,
    `--config.key value`, and for switches `--config.key` and `--noconfig.key`, are understood.
    Raises ValueError for an unknown key, naming the nearest known one, for one without a value,
    and for `--no` before a key that is no switch.
    """
    given: dict[str, str] = {}
    others: list[str] = []
    queue = iter(arguments)
    for argument in queue:
        found = None if argument == "--" else _OURS.fullmatch(argument)
        if not found:
            others.append(argument)
            if argument == "--":
                others += queue
            continue
        negated, key, value = found.groups()
        flag = "config" if key is None else f"config.{key}"
        is_switch = key is not None and _type_of(key) is bool
        if negated and (not is_switch or value is not None):
            raise ValueError(f"{argument}: write --{flag}=VALUE; --no{flag} is for switches alone")
        if value is None:
            value = str(not negated) if is_switch else next(queue, None)
        if value is None:
            raise ValueError(f"{argument} has no value; expected --{flag}=VALUE")
        if key is not None and takes_words(_type_of(key)) and not _NUMBER.fullmatch(value):
            value = repr(value)  # the flags library reads these values as Python
        given[flag] = value
    file = [f"--config={given.pop('config')}"] if "config" in given else []
    return [*file, *(f"--{flag}={value}" for flag, value in given.items()), *others]


def _type_of(key: str) -> type:
    known = key_types(Config)
    if key not in known:
        raise ValueError(unknown_name("config key", key, tuple(known)))
    return known[key]
