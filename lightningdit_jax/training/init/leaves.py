"""What becomes of one array of a new run: taken from the source, resampled, fresh or refused."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from lightningdit_jax.tree_paths import map_named

Fate = Literal["taken", "resampled", "fresh", "refused"]
FATES: tuple[Fate, ...] = ("taken", "resampled", "fresh", "refused")
Shape = tuple[int, ...]
Make = Callable[[Any, jax.Array], jax.Array]


def _of_source(source: jax.Array, fresh: jax.Array) -> jax.Array:
    return source


def _as_initialized(source: jax.Array | None, fresh: jax.Array) -> jax.Array:
    return fresh


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array by name, its fate, and why. make(the source's, the fresh one) is its value.

    make traces under jit; the source's is None where it has none of that name.
    """

    name: str
    fate: Fate
    note: str = ""
    make: Make = _as_initialized


def taken(name: str) -> Leaf:
    """As it is in the source."""
    return Leaf(name, "taken", make=_of_source)


def fresh(name: str, note: str) -> Leaf:
    """As a run that takes nothing has it."""
    return Leaf(name, "fresh", note)


def refused(name: str, note: str) -> Leaf:
    """No way to take it over is known."""
    return Leaf(name, "refused", note)


def same_shape(name: str, there: Shape | None, here: Shape) -> Leaf:
    """Taken where it has the shape that the source's has, else refused."""
    if there is None:
        return refused(name, "the source has none")
    if there != here:
        return refused(name, f"{list(there)} in the source, {list(here)} here")
    return taken(name)


def built(leaves: Sequence[Leaf], source: Mapping[str, Any], tree: Any) -> Any:
    """A tree of what the leaves make. source: arrays by name; tree: the fresh ones."""
    by_name = {leaf.name: leaf for leaf in leaves}
    return map_named(lambda name, fresh: by_name[name].make(source.get(name), fresh), tree)


def counts(leaves: Sequence[Leaf]) -> dict[Fate, int]:
    """How many leaves have each fate that any has."""
    number = {fate: sum(leaf.fate == fate for leaf in leaves) for fate in FATES}
    return {fate: count for fate, count in number.items() if count}
