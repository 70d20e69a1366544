"""Names of classes: for people, and as people give them."""

import re
from collections.abc import Sequence

from lightningdit_jax.data.image_listing import printable
from lightningdit_jax.errors import unknown_name

_ALL_UP_TO = 10
_NUMBER = re.compile(r"-?[0-9]+")


def class_line(names: Sequence[str]) -> str:
    """How many classes there are and what they are called; of many the first and the last."""
    shown = [printable(name) for name in names]
    if len(shown) > _ALL_UP_TO:
        shown[3:-1] = ["..."]
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}: {', '.join(shown)}"


def class_number(key: str, text: str, class_names: Sequence[str], expected: str) -> int:
    """The number of a class that config.KEY gives by number or by one of its checkpoint's names.

    "name:7" is the class called 7. expected: what the key takes, where no names are known. Raises
    ValueError for an unknown name, and for a number that is also the name of another class.
    """
    by_name = {name: number for number, name in enumerate(class_names)}
    if _NUMBER.fullmatch(text):
        if by_name.get(text, int(text)) != int(text):
            raise ValueError(
                f"config.{key} holds '{text}', a class number and also the name of class "
                f"number {by_name[text]}; write 'name:{text}' for the latter, and the other by its "
                "name in the same way"
            )
        return int(text)
    name = text.removeprefix("name:")
    if name in by_name:
        return by_name[name]
    if class_names:
        raise ValueError(f"config.{key}: {unknown_name('class', name, class_names)}")
    raise ValueError(
        f"config.{key} is '{text}'; expected {expected} "
        "(the generator's checkpoint knows no names of classes)"
    )
