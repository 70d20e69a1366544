"""Names of classes: for people, and as people give them."""

import collections
import csv
import functools
import re
from collections.abc import Mapping, Sequence

from lightningdit_jax.data.image_listing import printable
from lightningdit_jax.data.imagenet_names import in_words
from lightningdit_jax.errors import counted, plain, unknown_name

_ALL_UP_TO = 10
_NUMBER = re.compile(r"-?[0-9]+")


def class_line(names: Sequence[str], counts: Sequence[int] = ()) -> str:
    """How many classes there are and what they are called; of many the first and the last.

    counts: images of each, where known. A name that holds a comma is in quotes, as it is given.
    """
    shown = [f'"{name}"' if "," in name else name for name in map(printable, names)]
    if len(counts):
        shown = [f"{name} {count:,}" for name, count in zip(shown, counts)]
    between = ""
    if len(shown) > _ALL_UP_TO:
        shown[3:-1] = ["..."]
        if len(counts):
            between = f" ({min(counts):,} to {max(counts):,} each)"
    return f"{counted(len(names), 'class', 'classes')}: {', '.join(shown)}{between}"


def short_names(names: Sequence[str]) -> list[str]:
    """Names for below a picture: the first of several words for a class."""
    return [printable(name).partition(", ")[0] for name in in_words(names)]


def split_list(key: str, text: str) -> list[str]:
    """The parts of a list of classes, "1,cat" or 'goldfish,"tench, Tinca tinca"'.

    Raises ValueError for quotes that do not end.
    """
    try:
        [parts] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(
            f"config.{key} is {plain(repr(text))}; expected a list such as 207,387 or "
            'goldfish,"tench, Tinca tinca", a name with a comma in double quotes'
        ) from error
    return [part.strip() for part in parts] or [""]


def class_number(key: str, text: str, class_names: Sequence[str], expected: str) -> int:
    """The number of a class that config.KEY gives by number or by one of its checkpoint's names.

    Of a name that is several words, "goldfish, Carassius auratus", each of them will do, and
    ImageNet's identifiers may be given in words. "name:7" is the class called 7, the whole of it.
    expected: what the key takes, where no names are known. Raises ValueError for an unknown name,
    for one of several classes, and for a number that is also the name of another class.
    """
    whole, words = _numbers_by_name(tuple(class_names))
    if _NUMBER.fullmatch(text):
        named = whole.get(text, [int(text)])
        if int(text) not in named:
            raise ValueError(
                f"config.{key} holds '{text}', a class number and also the name of class "
                f"number {named[0]}; write 'name:{text}' for the latter, and the other by its "
                "name in the same way"
            )
        return int(text)
    name = text.removeprefix("name:")
    found = whole.get(name, []) if name != text else words.get(name, [])
    if len(found) > 1:
        which = " or ".join(f"{n} ({in_words(class_names)[n]})" for n in found[:5])
        raise ValueError(
            f"config.{key}: several classes are called '{name}'; give a number: {which}"
        )
    if found:
        return found[0]
    if class_names:
        known = tuple(words if name == text else whole)
        raise ValueError(f"config.{key}: {unknown_name('class', name, known)}")
    raise ValueError(
        f"config.{key} is '{text}'; expected {expected} "
        "(the generator's checkpoint knows no names of classes)"
    )


@functools.lru_cache(maxsize=4)
def _numbers_by_name(
    class_names: tuple[str, ...],
) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
    """The classes of each whole name; and of each name, words for it and each of the words."""
    whole: dict[str, list[int]] = collections.defaultdict(list)
    words: dict[str, dict[int, None]] = collections.defaultdict(dict)
    for number, (name, told) in enumerate(zip(class_names, in_words(class_names))):
        whole[name].append(number)
        for called in (name, told, *told.split(", ")):
            words[called][number] = None
    return dict(whole), {name: list(numbers) for name, numbers in words.items()}
