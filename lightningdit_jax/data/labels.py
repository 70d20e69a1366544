"""Labels as data sets have them, whole numbers or names, to numbers and names of classes."""

from collections.abc import Callable, Sequence

import numpy as np

from lightningdit_jax.errors import plain
from lightningdit_jax.whole_numbers import TOO_LARGE

MOST_CLASSES = 1_000_000
ONE_CLASS = "none"  # config.data.labels: whatever the labels are, all images are of one class


def number_labels(
    labels: Sequence[int | str] | np.ndarray,
    where: Callable[[int], str],
    class_names: Sequence[str] = (),
) -> tuple[np.ndarray, Sequence[str]]:
    """Numbers, int64 [N], and the names of their classes.

    Numbers stay what they are: class 0 to the highest, each called after its number, or as
    class_names has it. Names are numbered in their order as strings. where: what a person finds
    label i by. Raises ValueError for numbers among names, and for numbers that are no class.
    """
    if isinstance(labels, np.ndarray):
        return _checked(labels.astype(np.int64), where, class_names)
    of_kind: dict[type, int] = {}
    for i, label in enumerate(labels):
        of_kind.setdefault(type(label), i)
    if len(of_kind) > 1:
        found = " and ".join(f"{plain(repr(labels[i]))} ({where(i)})" for i in of_kind.values())
        raise ValueError(f"labels are numbers and names: {found}; expected all of them of one kind")
    if str not in of_kind:
        large = next((i for i, label in enumerate(labels) if abs(int(label)) >= TOO_LARGE), None)
        if large is not None:
            said = f"label {plain(str(labels[large]), 20)} ({where(large)})"
            raise ValueError(f"{said} is no class; {_EXPECTED}")
        return _checked(np.array(labels, np.int64), where, class_names)
    names = sorted(str(label) for label in {*labels})
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[str(label)] for label in labels], np.int64), names


_EXPECTED = f"expected whole numbers from 0, below {MOST_CLASSES:,}, or names"


def _checked(
    numbers: np.ndarray, where: Callable[[int], str], class_names: Sequence[str]
) -> tuple[np.ndarray, Sequence[str]]:
    below = len(class_names) or MOST_CLASSES
    outside = np.flatnonzero((numbers < 0) | (numbers >= below))
    if len(outside):
        first = int(outside[0])
        said = f"label {numbers[first]} ({where(first)})"
        if (numbers == -1).all():
            raise ValueError(
                f"{said}: all labels are -1, which is how sets without labels are published; "
                f"take them as one class with config.data.labels={ONE_CLASS}"
            )
        if class_names:
            raise ValueError(f"{said} is none of the {below:,} classes that are named")
        raise ValueError(f"{said} is no class; {_EXPECTED}")
    count = int(numbers.max(initial=-1)) + 1
    return numbers, class_names or [str(number) for number in range(count)]
