"""Keys whose value decides which other keys are read, see config_jobs.py."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choice:
    """A key that names a row of a table, whose row says which other keys are read.

    reads: by value of the key, what the jobs that read it then read too. What is listed at no value
    is read at any. tried: a key of values that a job takes one after another in its place, where
    it reads it and there are any.
    """

    key: str
    reads: Mapping[Any, Collection[str]]
    tried: str = ""

    def values(self, value: Callable[[str], Any], is_tried: bool) -> tuple[str, tuple[Any, ...]]:
        """The key that decides for a job, and what it says. is_tried: whether it reads `tried`."""
        if is_tried and value(self.tried):
            return self.tried, value(self.tried)
        return self.key, (value(self.key),)

    def named(self, value: Callable[[str], Any]) -> list[tuple[str, Any]]:
        """The names that a config gives, each with the key it stands in."""
        tried = value(self.tried) if self.tried else ()
        return [(self.key, value(self.key)), *((self.tried, name) for name in tried)]

    def wanted(self, key: str, chosen: Collection[Any]) -> str:
        """What values to choose instead so that a key is read, "" where it is already."""
        wanted = [name for name, keys in self.reads.items() if key in keys]
        return "" if not wanted or set(chosen) & set(wanted) else ", ".join(map(repr, wanted))


@dataclasses.dataclass(frozen=True)
class Several(Choice):
    """A key of several names, each of a row of a table; what one of them reads is read."""

    def values(self, value: Callable[[str], Any], is_tried: bool) -> tuple[str, tuple[Any, ...]]:
        """The names, or that there are none."""
        return self.key, value(self.key) or ((),)

    def named(self, value: Callable[[str], Any]) -> list[tuple[str, Any]]:
        """See Choice."""
        return [(self.key, name) for name in value(self.key)]


@dataclasses.dataclass(frozen=True)
class Scale(Choice):
    """A number whose other keys are read unless it is `neutral`, where reads has them."""

    neutral: float = 1.0

    def wanted(self, key: str, chosen: Collection[Any]) -> str:
        is_read = key not in self.reads[self.neutral] or any(v != self.neutral for v in chosen)
        return "" if is_read else f"any but {self.neutral}"
