"""Names of classes, for people."""

from collections.abc import Sequence

from lightningdit_jax.data.image_listing import printable

_ALL_UP_TO = 10


def class_line(names: Sequence[str]) -> str:
    """How many classes there are and what they are called; of many the first and the last."""
    shown = [printable(name) for name in names]
    if len(shown) > _ALL_UP_TO:
        shown[3:-1] = ["..."]
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}: {', '.join(shown)}"
