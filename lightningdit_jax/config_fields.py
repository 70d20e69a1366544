"""Nested dataclasses from nested values, strictly: every key and every type has to be right."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.square import SIDES, one_side
from lightningdit_jax.whole_numbers import TOO_LARGE


@functools.cache
def key_types(cls: type, prefix: str = "") -> Mapping[str, Any]:
    """Types of all dotted keys of nested dataclasses, leaves only: {"seed": int, ...}."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= key_types(hint, f"{prefix}{name}.")
        else:
            found[prefix + name] = hint
    return types.MappingProxyType(found)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """An instance of nested dataclasses from nested values of the very types.

    An int may stand for a float, a list for a tuple. Raises ValueError naming the key for unknown
    (with the nearest known name), missing and mistyped values.
    """
    return _build(cls, values, "", tuple(key_types(cls)))


def _build(cls: type, values: Mapping[str, Any], prefix: str, known: Sequence[str]) -> Any:
    hints = typing.get_type_hints(cls)
    if not hasattr(values, "keys"):
        where = f"config.{prefix}".rstrip(".")
        raise ValueError(f"{where} is {values!r:.80}; expected keys, as configs/base.py has them")
    for key in values:
        if key not in hints:
            raise ValueError(unknown_name("config key", prefix + key, known))
    fields = {}
    for name, hint in hints.items():
        if name not in values:
            raise ValueError(f"config.{prefix}{name} is missing; configs/base.py sets every key")
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            fields[name] = _build(hint, values[name], f"{prefix}{name}.", known)
        else:
            fields[name] = _convert(values[name], hint, prefix + name)
    return cls(**fields)


def _convert(value: Any, hint: Any, key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(unknown_name(f"value of config.{key}", str(value), choices))
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, typing.get_args(hint), key)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(
                f"config.{key} is {value!r:.200}; expected a tuple of {inner.__name__}"
            )
        return tuple(_convert(v, inner, key) for v in value)
    if hint is float and type(value) is int and abs(value) < TOO_LARGE:
        return float(value)
    if type(value) is not hint:
        if key in SIDES:
            raise ValueError(one_side(key, value))
        raise ValueError(f"config.{key} is {value!r:.200}; expected {hint.__name__}")
    return value


def _convert_union(value: Any, hints: Sequence[Any], key: str) -> Any:
    """Of a type or None, or of a type or one of some words."""
    words = [w for h in hints if typing.get_origin(h) is Literal for w in typing.get_args(h)]
    inner = next(h for h in hints if isinstance(h, type) and h is not types.NoneType)
    if value in words or (value is None and types.NoneType in hints):
        return value
    if words and not is_of_type(value, inner):
        expected = " or ".join([inner.__name__, *map(repr, words)])
        raise ValueError(f"config.{key} is {value!r:.200}; expected {expected}")
    return _convert(value, inner, key)


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type that a field may have; an int is a float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(is_of_type(value, h) for h in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of_type(v, arguments[0]) for v in value)
    return type(value) is hint or (hint is float and type(value) is int)


def takes_words(hint: Any) -> bool:
    """Whether a key's type is one that a word may stand for, such as "auto" for a number."""
    hints = typing.get_args(hint)
    return typing.get_origin(hint) in (types.UnionType, typing.Union) and any(
        typing.get_origin(h) is Literal for h in hints
    )
