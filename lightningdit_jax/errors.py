"""Wording of messages that several packages share."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightningdit_jax.foreign_names import foreign_name


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """An error message that names the nearest known name, or all of them where few.

    Where it is another program's name for a known one, that one, whatever is spelled more like it.
    """
    name = plain(name)
    listing = f" Known: {', '.join(known)}." if len(known) <= 20 else ""
    if foreign := foreign_name(name, known):
        whose, ours = foreign
        return f"unknown {what} '{name}': {whose} name; here it is '{ours}'.{listing}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    leaf = name.rpartition(".")[2]
    near = near or [k for k in known if k.rpartition(".")[2] == leaf][:1]
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown {what} '{name}'{hint}{listing}"


LONGEST_LINE = 8000  # characters of an error's line, which may list all keys or classes there are


def plain(text: str, length: int = 100) -> str:
    """A text from outside as it can stand in a line: nothing but what can be printed, cut short."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= length else f"{text[:length]}..."


class ConversionError(ValueError):
    """Weights do not fit; the message lists every tensor concerned."""

    def __init__(self, headline: str, problems: Iterable[str]):
        problems = [plain(problem, 500) for problem in problems]  # of names that a file gives
        super().__init__(headline + "".join(f"\n  {problem}" for problem in problems))
        self.problems = problems


def one_line(error: BaseException, length: int = 200) -> str:
    """What an exception of a library says, in a line of a length at most; its name if nothing."""
    said: object = error
    while isinstance(said, BaseException) and len(said.args) == 1:  # KeyError quotes what it says
        said = said.args[0]
    return " ".join(str(said).split())[:length] or type(error).__name__


def counted(number: int, what: str, plural: str = "") -> str:
    """A number of things: `1 image`, `2,000 images`. plural: where it is not `what` with an s."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"


def listed(names: Sequence[str], shown: int = 3, separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return separator.join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")


def difference(found: Any, wanted: Any, wording: str = "{}, now {}") -> str:
    """What differs: `FOUND, now WANTED`, or of two descriptions `key FOUND, now WANTED; key ...`.

    Descriptions within descriptions are compared in the same way; empty where two are the same.
    wording: of the two values.
    """
    if not (isinstance(found, Mapping) and isinstance(wanted, Mapping)):
        return wording.format(_short(found), _short(wanted))
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{k} {difference(found.get(k), wanted.get(k), wording)}" for k in keys)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 5:
        return f"[{', '.join(map(str, value[:3]))}, ... {len(value)} values]"
    return str(value)


@contextlib.contextmanager
def renamed_key(key: str, meant: str) -> Iterator[None]:
    """What readers of one key of a config say of a folder, of the key that is meant."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        text = str(error).replace(f"config.{key}", f"config.{meant}")
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(
            text
        ) from error
