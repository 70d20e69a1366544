"""Which row of the source's label table each class of a new run begins with."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.data.class_names import class_number, split_list
from lightningdit_jax.models.lightningdit import LightningDiTConfig

FRESH = -1  # no row: as initialized


@dataclasses.dataclass(frozen=True)
class ClassRows:
    """rows: of the source for each row here, FRESH for none; total: that the source has."""

    rows: tuple[int, ...]
    total: int

    @property
    def is_unchanged(self) -> bool:
        """Whether this is the source's table as it is."""
        return self.rows == tuple(range(self.total))

    def table(self, source: jax.Array, fresh: jax.Array) -> jax.Array:
        """The label table. source: [total, D], fresh: [len(rows), D] -> [len(rows), D]."""
        rows = np.array(self.rows)[:, None]
        return jnp.where(rows == FRESH, fresh, source[np.maximum(rows[:, 0], 0)])

    def __str__(self) -> str:
        new = self.rows.count(FRESH)
        left = self.total - len({*self.rows} - {FRESH})
        text = f"{len(self.rows) - new} rows of the source's {self.total}"
        text += f", {new} fresh" if new else ""
        return text + (f", {left} left behind" if left else "")


def class_rows(
    there: LightningDiTConfig, here: LightningDiTConfig, labels: str, names: Sequence[str]
) -> ClassRows:
    """Rows by number, or as config.train.init_labels lists them; the null row is the null row's.

    labels: that list. names: of the source's classes, where known. Raises ValueError for a list of
    another length, for a class that the source does not have, and for "null" where it has none.
    """
    null = there.num_classes if there.num_labels > there.num_classes else FRESH
    if labels:
        given = split_list("train.init_labels", labels)
        if len(given) != here.num_classes:
            raise ValueError(
                f"config.train.init_labels has {len(given)} entries, but config.model.num_classes "
                f"is {here.num_classes}; expected a class of the source for each, 'null' or 'fresh'"
            )
        rows = [_row(text, there.num_classes, null, names) for text in given]
    else:
        rows = [c if c < there.num_classes else FRESH for c in range(here.num_classes)]
    rows += [null] * (here.num_labels - here.num_classes)
    return ClassRows(tuple(rows), there.num_labels)


def _row(text: str, classes: int, null: int, names: Sequence[str]) -> int:
    if text == "fresh":
        return FRESH
    if text == "null":
        if null == FRESH:
            raise ValueError(
                "config.train.init_labels holds 'null', but the source has no null class (its "
                "class_dropout_prob is 0); take 'fresh' or one of its classes"
            )
        return null
    number = class_number(
        "train.init_labels", text, names, "numbers of the source's classes, 'null' and 'fresh'"
    )
    if not 0 <= number < classes:
        raise ValueError(
            f"config.train.init_labels holds class {number}, but the source has {classes} classes; "
            f"expected 0 to {classes - 1}, 'null' or 'fresh'"
        )
    return number
