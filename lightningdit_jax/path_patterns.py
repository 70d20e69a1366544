"""Shell patterns over names of leaves (tree_paths); `*` crosses "/". Imports nothing of ours."""

import difflib
import fnmatch
from collections.abc import Collection, Iterable


def is_matched(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is of this name, the whole of it."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(key: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Raises ValueError for a pattern of config.KEY that no name matches, naming near ones."""
    for pattern in patterns:
        if any(is_matched(name, [pattern]) for name in names):
            continue
        near = difflib.get_close_matches(pattern, {*names}, n=3, cutoff=0.0)
        raise ValueError(
            f"config.{key} holds '{pattern}', which no parameter's name matches; near it: "
            f"{', '.join(near)} (the whole name counts: '*' stands for any part of it)"
        )
