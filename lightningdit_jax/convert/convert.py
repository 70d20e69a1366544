"""State dicts of PyTorch <-> architecture and parameter tree."""

from typing import Any

import numpy as np

from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.convert.keymap import (
    ConversionError,
    Hints,
    Shape,
    StateShapes,
    Step,
    Tensors,
)
from lightningdit_jax.convert.kinds import find_kind
from lightningdit_jax.tree_paths import named_leaves


def params_from_torch(
    kind: str,
    tensors: Tensors,
    *,
    hints: Hints = Hints(),  # noqa: B008, frozen
    step: Step = lambda size: None,
) -> tuple[Any, Any]:
    """Architecture and parameters of a state dict. -> (config, nested dict of numpy arrays).

    kind: one of KINDS. The architecture is read from names and shapes, and from the hints. step: is
    told the bytes of each tensor that is done.
    Raises ConversionError, a ValueError that lists every tensor that does not fit.
    """
    entry = find_kind(kind)
    config = infer_config(kind, tensors, hints)
    abstract = abstract_params(kind, config)
    keymap = entry.keymap(config)
    if problems := keymap.check(tensors, abstract):
        raise ConversionError(_headline(kind), sorted(problems.values()))
    return config, keymap.from_torch(tensors, abstract, step)


def infer_config(kind: str, tensors: Tensors, hints: Hints = Hints()) -> Any:  # noqa: B008
    """Architecture of a state dict; of the tensors only the shapes are looked at.

    Raises ConversionError listing the tensors that should tell it and do not, and beside them all
    others that do not fit what those that are there tell.
    """
    entry = find_kind(kind)
    shapes = StateShapes({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    try:
        config = entry.infer(shapes, hints)
    except ValueError as error:
        problems = [*shapes.problems.values(), f"no such architecture: {error}"]
        raise ConversionError(_headline(kind), problems) from error
    if shapes.problems:
        others = entry.keymap(config).check(tensors, abstract_params(kind, config))
        raise ConversionError(_headline(kind), sorted((others | shapes.problems).values()))
    return config


def params_to_torch(
    kind: str, config: Any, params: Any, buffers: Tensors | None = None
) -> dict[str, np.ndarray]:
    """State dict with the release's names, layouts and buffers. Reads back bit-identically.

    buffers: tables as they were read, since those we compute can differ from PyTorch's in the last
    bit. Raises ConversionError listing parameters that are missing, too many, or of another shape.
    """
    expected, found = (
        {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}
        for tree in (abstract_params(kind, config), params)
    )
    problems = [f"missing: {p} {expected[p]}" for p in expected.keys() - found.keys()]
    problems += [f"unknown: {p} {found[p]}" for p in found.keys() - expected.keys()]
    problems += [
        f"wrong shape: {p} {found[p]}, expected {expected[p]}"
        for p in expected.keys() & found.keys()
        if expected[p] != found[p]
    ]
    if problems:
        raise ConversionError("these parameters do not fit the config:", sorted(problems))
    return find_kind(kind).keymap(config).to_torch(params) | dict(buffers or {})


def torch_shapes(kind: str, config: Any) -> dict[str, Shape]:
    """Names and shapes of the state dict of an architecture, without making any array."""
    return find_kind(kind).keymap(config).torch_shapes(abstract_params(kind, config))


def abstract_params(kind: str, config: Any) -> Any:
    """The parameter tree of an architecture with ShapeDtypeStructs for leaves."""
    return abstract_model(find_kind(kind).model, config)[1]


def _headline(kind: str) -> str:
    return f"these tensors do not fit a {kind}:"
