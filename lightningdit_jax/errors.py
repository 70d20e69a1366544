"""Wording of messages that several packages share. Imports nothing of ours."""

import difflib
from collections.abc import Sequence


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """An error message that names the nearest known name, or all of them where few."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    leaf = name.rpartition(".")[2]
    near = near or [k for k in known if k.rpartition(".")[2] == leaf][:1]
    hint = f"; did you mean '{near[0]}'?" if near else "."
    listing = f" Known: {', '.join(known)}." if len(known) <= 20 else ""
    return f"unknown {what} '{name}'{hint}{listing}"


def listed(names: Sequence[str], shown: int = 3, separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return separator.join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")
