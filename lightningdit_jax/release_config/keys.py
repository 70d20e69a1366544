"""The keys of a yaml file of the release, each of which is asked for, and what became of it."""

import dataclasses
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightningdit_jax.errors import plain
from lightningdit_jax.foreign_names import RELEASE_RENAMED
from lightningdit_jax.whole_numbers import TOO_LARGE

ABSENT = object()
_PLACEHOLDER = re.compile(r"/?path/to(/|$)")
_MOST_DEPTH = 20
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxlist, _SHOWN.maxstring, _SHOWN.maxother = 2, 20, 200, 200
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a key: taken over as the config keys in `text`, implied, or refused."""

    key: str
    value: Any
    how: Literal["mapped", "implied", "refused"]
    text: str

    def __str__(self) -> str:
        value = "(absent)" if self.value is ABSENT else _shown(self.value)
        return f"{self.how:8} {self.key} = {value}: {self.text}"


class Keys:
    """Reads the leaves of nested values by dotted key.

    rows: of all that was asked for; settings: config keys and values so far, and sources the
    release's key that each is from. Values of another type than expected are refused in a row, and
    a stand-in is returned, so that everything that is wrong is told at once.
    """

    def __init__(self, values: Mapping[str, Any]):
        self._leaves = _flat(values)
        self.sections = {key for key, value in values.items() if isinstance(value, Mapping)}
        self.rows: list[Row] = []
        self.settings: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._leaves

    def value(self, key: str) -> Any:
        """The value as it stands, ABSENT where the key is not there. Leaves no row."""
        return self._leaves.get(key, ABSENT)

    def number(self, key: str, kind: type, default: Any) -> Any:
        """The value of a type: bool, int, float or str; `default` where it is absent or wrong."""
        value = self.value(key)
        if value is ABSENT:
            return default
        if kind is float and isinstance(value, str):
            try:
                return float(value)  # 1e-4, which is a text in YAML 1.1
            except ValueError:
                pass
        if kind is float and type(value) is int and abs(value) < TOO_LARGE:
            return float(value)
        if type(value) is not kind:
            self.refused(key, f"expected {_WORDS[kind]}")
            return default
        return value

    def set(self, settings: Mapping[str, Any], key: str = "") -> None:
        """Config keys that follow from the release's program, or from its key."""
        self.settings |= settings
        self.sources |= dict.fromkeys(settings, key)

    def mapped(self, key: str, settings: Mapping[str, Any], why: str = "") -> None:
        """The key is taken over as these config keys."""
        if any(row.key == key and row.how == "refused" for row in self.rows):
            return
        self.set(settings, key)
        ours = ", ".join(f"{name} = {_shown(value)}" for name, value in settings.items())
        self._add(key, "mapped", ours + (f"; {why}" if why else ""))

    def renamed(self, key: str, kind: type, default: Any = ABSENT, why: str = "") -> None:
        """The key has another name and the same value here. default: the release's, if absent."""
        if key not in self and default is ABSENT:
            ours = RELEASE_RENAMED[key]
            self._add(key, "implied", f"the release ends without it; {ours} stays the default")
            return
        value = self.number(key, kind, default)
        if value is ABSENT:
            return
        absent = "" if key in self else "the release's default"
        self.mapped(key, {RELEASE_RENAMED[key]: value}, "; ".join(filter(None, (absent, why))))

    def path(self, key: str, ours: str, why: str = "") -> None:
        """The key names a file or folder; null and a placeholder are left out."""
        if key not in self:
            return
        value = self.value(key)
        if value is None or self.is_placeholder(key):
            self.implied(key, f"names nothing yet; give --config.{ours}")
        elif not isinstance(value, str):
            self.refused(key, "expected a path")
        else:
            self.mapped(key, {ours: value}, why)

    def is_placeholder(self, key: str) -> bool:
        """Whether a path is what the release's files have in its place."""
        value = self.value(key)
        return isinstance(value, str) and bool(_PLACEHOLDER.match(value))

    def implied(self, key: str, why: str) -> None:
        """The key needs nothing here; a row only where it is there."""
        if key in self:
            self._add(key, "implied", why)

    def only(self, key: str, values: Sequence[Any], implied: str, refused: str) -> None:
        """The key needs nothing here with one of these values, and is refused with any other."""
        if key in self:
            good = any(self.value(key) is v or self.value(key) == v for v in values)
            self._add(key, "implied" if good else "refused", implied if good else refused)

    def refused(self, key: str, why: str) -> None:
        """The key asks for what cannot be taken over."""
        self._add(key, "refused", why)

    def finish(self) -> None:
        """Refuses every key that nothing asked for."""
        seen = {row.key for row in self.rows}
        for key in self._leaves:
            if key not in seen:
                self.refused(key, "the release has no such key, or reads it nowhere; take it out")

    def _add(self, key: str, how: Literal["mapped", "implied", "refused"], text: str) -> None:
        self.rows.append(Row(key, self.value(key), how, text))


def _flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Raises ValueError for sections without end, as a yaml file can name one within itself."""
    if depth > _MOST_DEPTH:
        raise ValueError(f"sections lie more than {_MOST_DEPTH} deep in each other")
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{plain(str(key))}"
        if isinstance(value, Mapping) and value:
            leaves |= _flat(value, f"{name}.", depth + 1)
        else:
            leaves[name] = value
    return leaves


def _shown(value: Any) -> str:
    words = {True: "true", False: "false", None: "null", "": "''"}
    if isinstance(value, bool | str) or value is None:
        return words.get(value, plain(str(value), 200))
    return _SHOWN.repr(value)
