"""The names of a tree's leaves: their keys joined by "/". Imports nothing of ours."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of every leaf in order: dict keys, field names and indices joined by "/"."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """jax.tree.map of function(name, leaf, *leaves of the others), names as in `named_leaves`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(_name(path), *leaves), tree, *others
    )


def not_finite(tree: Any) -> list[str]:
    """Names of the arrays on the host that hold NaN or infinities."""
    return [name for name, leaf in named_leaves(tree) if not np.isfinite(leaf).all()]


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
