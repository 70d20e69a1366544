"""Tables that carry PyTorch weights into our parameter trees and back.

A table is read from our side: each parameter path names its tensor and how that is laid out, so
every parameter is filled exactly once and every tensor left over is known.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from lightningdit_jax.errors import ConversionError
from lightningdit_jax.tree_paths import map_named, named_leaves

Shape = tuple[int, ...]
Tensors = Mapping[str, np.ndarray]
Step = Callable[[int], None]


class Layout(Protocol):
    """How a tensor of PyTorch lies in a parameter of ours."""

    def torch_shape(self, shape: Shape) -> Shape:
        """Shape of the tensor, given that of the parameter."""

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """The parameter of the given shape."""

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The tensor."""


@dataclasses.dataclass(frozen=True)
class Same:
    """The same axes, after `leading` more of size 1."""

    leading: int = 0

    def torch_shape(self, shape: Shape) -> Shape:
        return (1,) * self.leading + shape

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.torch_shape(array.shape))


@dataclasses.dataclass(frozen=True)
class Flat:
    """A vector, whose parts are axes of ours."""

    def torch_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Channels:
    """A value a channel, [1, C, 1, 1] <-> [C]."""

    def torch_shape(self, shape: Shape) -> Shape:
        return (1, *shape, 1, 1)

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.torch_shape(array.shape))


@dataclasses.dataclass(frozen=True)
class Linear:
    """[out, in] <-> [*in, *out], `in_axes` of ours being inputs; kernel_size [1, 1]: a convolution.

    PyTorch fuses parts (q, k, v; gate, value) along `out`, the part slowest, as our axes are.
    """

    in_axes: int = 1
    kernel_size: Shape = ()

    def torch_shape(self, shape: Shape) -> Shape:
        inputs, outputs = shape[: self.in_axes], shape[self.in_axes :]
        return (math.prod(outputs), math.prod(inputs), *self.kernel_size)

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.reshape(tensor.shape[:2]).T.reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        out, inputs, *_ = shape = self.torch_shape(array.shape)
        return array.reshape(inputs, out).T.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Conv:
    """[out, in, h, w] <-> [h, w, in, out]."""

    def torch_shape(self, shape: Shape) -> Shape:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return tensor.transpose(2, 3, 1, 0)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class PatchConv:
    """A convolution [out, in, p, p] over disjoint patches <-> a linear [p p in, out]."""

    patch_size: int

    def _kernel_shape(self, shape: Shape) -> Shape:
        return (self.patch_size, self.patch_size, shape[0] // self.patch_size**2, shape[1])

    def torch_shape(self, shape: Shape) -> Shape:
        return Conv().torch_shape(self._kernel_shape(shape))

    def to_ours(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        return Conv().to_ours(tensor, shape).reshape(shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return Conv().to_torch(array.reshape(self._kernel_shape(array.shape)))


@dataclasses.dataclass(frozen=True)
class Rule:
    """Parameters whose path matches the regex `ours` lie in the tensors called `torch`.

    Fields {0}, {1} of `torch` are the groups of the match; {L} is the index along the parameter's
    leading axis, which PyTorch keeps as a tensor for each layer. parts: names, for {P}, of tensors
    that lie one behind the other along its last axis but one.
    """

    torch: str
    ours: str
    layout: Layout
    parts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Where a tensor goes: a parameter of ours, or a layer or a part of one.

    index: of the tensor in the parameter. shape: of what is there.
    """

    path: str
    index: tuple[Any, ...]
    shape: Shape
    dtype: np.dtype
    layout: Layout

    @property
    def torch_shape(self) -> Shape:
        return self.layout.torch_shape(self.shape)

    @property
    def floating(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.floating)


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """An ordered table: the first rule that matches a parameter's path decides.

    buffers: tensors that are no parameters and that we compute; read ones must equal them.
    ignored: (regex, reason) for tensors that may be there and are left out. extras: (regex, what it
    is) for tensors of variants that the model does not have; they are refused with that.
    """

    rules: tuple[Rule, ...]
    buffers: Tensors = dataclasses.field(default_factory=dict)
    ignored: tuple[tuple[str, str], ...] = ()
    extras: tuple[tuple[str, str], ...] = ()

    def check(self, tensors: Tensors, abstract: Any) -> dict[str, str]:
        """What is wrong with a state dict for a parameter tree, by tensor; empty if it fits.

        Tensors are unknown, missing, claimed twice, or of another shape or type.
        """
        slots, problems = self._slots(abstract)
        for key in slots.keys() - tensors.keys():
            problems[key] = f"missing: {key} {slots[key].torch_shape}"
        for key, tensor in tensors.items():
            if key in slots:
                expected = slots[key].torch_shape
            elif key in self.buffers:
                expected = self.buffers[key].shape
            else:
                if not _first(self.ignored, key):
                    what = _first(self.extras, key)
                    problems[key] = f"unknown: {key} {tensor.shape}{what and f', {what}'}"
                continue
            if tensor.shape != expected:
                problems[key] = f"wrong shape: {key} {tensor.shape}, expected {expected}"
            elif key in self.buffers:
                problems |= _buffer_problems(key, tensor, self.buffers[key])
            elif slots[key].floating and not jnp.issubdtype(tensor.dtype, jnp.floating):
                problems[key] = f"wrong type: {key} {tensor.dtype}, expected floating point"
        return problems

    def left_out(self, keys: Iterable[str]) -> dict[str, int]:
        """How many of the tensors are ignored, by reason."""
        reasons = (_first(self.ignored, key) for key in keys)
        return dict(collections.Counter(reason for reason in reasons if reason))

    def from_torch(self, tensors: Tensors, abstract: Any, step: Step = lambda size: None) -> Any:
        """The parameter tree of a state dict that `check` passes. Leaves as in `abstract`.

        step: told the bytes of each tensor that is done.
        """
        slots, _ = self._slots(abstract)
        filled = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in named_leaves(abstract)}
        for key, slot in slots.items():
            filled[slot.path][slot.index] = slot.layout.to_ours(tensors[key], slot.shape)
            step(tensors[key].nbytes)
        return map_named(lambda name, _: filled[name], abstract)

    def to_torch(self, params: Any) -> dict[str, np.ndarray]:
        """The state dict of a parameter tree and buffers, C-contiguous: float32, counts int64.

        Tensors are views of the parameters where the layout allows.
        """
        slots, problems = self._slots(params)
        if problems:
            raise ConversionError("these parameters do not fit the table:", problems.values())
        leaves = dict(named_leaves(params))
        tensors = {}
        for key, slot in slots.items():
            dtype = np.float32 if slot.floating else np.int64
            array = np.asarray(leaves[slot.path])
            array = slot.layout.to_torch(array[slot.index])
            tensors[key] = np.asarray(array, dtype, order="C")
        return tensors | dict(self.buffers)

    def torch_shapes(self, abstract: Any) -> dict[str, Shape]:
        """Shapes of all tensors and buffers of the state dict, without any values."""
        slots, problems = self._slots(abstract)
        if problems:
            raise ConversionError("these parameters do not fit the table:", problems.values())
        shapes = {key: slot.torch_shape for key, slot in slots.items()}
        return shapes | {key: buffer.shape for key, buffer in self.buffers.items()}

    def _slots(self, abstract: Any) -> tuple[dict[str, _Slot], dict[str, str]]:
        slots: dict[str, _Slot] = {}
        problems = {}
        for path, leaf in named_leaves(abstract):
            for key, slot in self._slots_of(path, tuple(leaf.shape), np.dtype(leaf.dtype)):
                if key in slots:
                    problems[key] = f"claimed twice: {key}, by {slots[key].path} and {path}"
                slots[key] = slot
        return slots, problems

    def _slots_of(self, path: str, shape: Shape, dtype: np.dtype) -> list[tuple[str, _Slot]]:
        for rule in self.rules:
            if match := re.fullmatch(rule.ours, path):
                groups = [group.replace("/", ".") for group in match.groups()]
                places: list[tuple[dict[str, Any], tuple[Any, ...]]] = [({}, ())]
                if "{L}" in rule.torch:
                    places, shape = [({"L": i}, (i,)) for i in range(shape[0])], shape[1:]
                if rule.parts:
                    places = [
                        ({**names, "P": part}, (*index, ..., i, slice(None)))
                        for names, index in places
                        for i, part in enumerate(rule.parts)
                    ]
                    shape = (*shape[:-2], shape[-1])
                return [
                    (
                        rule.torch.format(*groups, **names),
                        _Slot(path, at, shape, dtype, rule.layout),
                    )
                    for names, at in places
                ]
        raise ValueError(f"no rule of the key map matches our parameter '{path}'; add one")


def _first(table: tuple[tuple[str, str], ...], key: str) -> str:
    """What the first pattern that matches says; "" if none does."""
    return next((text for pattern, text in table if re.match(pattern, key)), "")


def _buffer_problems(key: str, tensor: np.ndarray, buffer: np.ndarray) -> dict[str, str]:
    # PyTorch's cosines differ from the correctly rounded ones by a unit in the last place.
    half = jnp.issubdtype(tensor.dtype, jnp.floating) and tensor.dtype.itemsize <= 2
    tolerance = float(jnp.finfo(tensor.dtype).eps) if half else 1e-5
    error = np.abs(tensor.astype(np.float32) - buffer).max()
    if error <= tolerance:
        return {}
    return {key: f"wrong values: {key} differs by {error:.2g} from the table we compute"}


class StateShapes(Mapping[str, Shape]):
    """Names and shapes of a state dict, from which an architecture is read.

    What is not there, or has another number of axes, is noted in `problems` (by tensor) and
    answered with a stand-in, so that everything that is wrong can be told at once.
    """

    def __init__(self, shapes: Mapping[str, Shape]):
        self._shapes = dict(shapes)
        self.problems: dict[str, str] = {}

    def __getitem__(self, key: str) -> Shape:
        return self._shapes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def read(self, key: str, stand_in: Shape) -> Shape:
        """The shape of a tensor that tells the architecture, with as many axes as the stand-in."""
        shape = self._shapes.get(key)
        if shape is None:
            self.note(key, f"missing: {key}")
        elif len(shape) != len(stand_in) or 0 in shape:
            self.note(key, f"wrong shape: {key} {shape}, expected {len(stand_in)} axes")
        else:
            return shape
        return stand_in

    def most_common(self, places: Mapping[str, int], stand_in: int) -> int:
        """The size that most tensors agree on, where many tell it. places: tensor -> axis."""
        sizes = [
            self._shapes[key][axis]
            for key, axis in places.items()
            if key in self._shapes and -len(self._shapes[key]) <= axis < len(self._shapes[key])
        ]
        return collections.Counter(sizes).most_common(1)[0][0] if sizes else stand_in

    def count(self, pattern: str) -> int:
        """One more than the largest number that the pattern's group matches; 0 if none.

        Numbers beyond what the state dict can fill are noted and not counted.
        """
        matches = ((key, re.match(pattern, key)) for key in self._shapes)
        numbers = {key: int(match[1]) for key, match in matches if match}
        for key, number in numbers.items():
            if number >= len(self._shapes):
                self.note(key, f"unknown: {key} {self._shapes[key]}, its number is too large")
        return max((n + 1 for n in numbers.values() if n < len(self._shapes)), default=0)

    def note(self, key: str, problem: str) -> None:
        """Records what keeps the tensor `key` from telling the architecture."""
        self.problems[key] = problem


@dataclasses.dataclass(frozen=True)
class Hints:
    """What weights cannot tell of their architecture.

    num_heads: needed where neither a table nor a norm has the width of a head and the model's width
    is not a published one. null_class: the last label of a generator is the null class.
    norm_groups, act_fn: of an autoencoder, needed where its program lets them differ.
    aux_head_depth: the block of a generator after which its second head stands, needed where it has
    one and is not the published model.
    """

    num_heads: int | None = None
    null_class: bool = True
    norm_groups: int | None = None
    act_fn: str | None = None
    aux_head_depth: int | None = None


def known_heads(shapes: StateShapes, width: int, published: Mapping[int, int], hints: Hints) -> int:
    """The number of heads that is given, or that the published models of this width have.

    Notes in shapes where it is neither, or cannot be.
    """
    heads = published.get(width) if hints.num_heads is None else hints.num_heads
    if heads is None:
        shapes.note(
            "num_heads",
            f"the weights do not tell the number of heads (hidden_size {width}); give num_heads "
            "(--num-heads)",
        )
    elif heads < 1 or width % heads:
        shapes.note("num_heads", f"num_heads is {heads}; expected a divisor of hidden_size {width}")
    else:
        return heads
    return 1
