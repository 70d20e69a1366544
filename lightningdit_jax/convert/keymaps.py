"""Tables that carry PyTorch weights into our parameter trees and back.

A table is read from our side: each parameter path names its tensor and how that is laid out, so
every parameter is filled exactly once and every tensor left over is known.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.models.embeddings import rotary_tables
from lightningdit_jax.models.lightningdit import LightningDiTConfig

Shape = tuple[int, ...]
Tensors = Mapping[str, np.ndarray]


class ConversionError(ValueError):
    """Weights do not fit; the message lists every tensor concerned."""

    def __init__(self, headline: str, problems: list[str]):
        super().__init__(headline + "".join(f"\n  {problem}" for problem in problems))
        self.problems = problems


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
    leading axis, which PyTorch keeps as a tensor for each layer.
    """

    torch: str
    ours: str
    layout: Layout


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Where a tensor goes: a parameter of ours, or a layer of one."""

    path: str
    layer: int | None
    shape: Shape
    layout: Layout

    @property
    def torch_shape(self) -> Shape:
        return self.layout.torch_shape(self.shape)


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """An ordered table: the first rule that matches a parameter's path decides.

    buffers: tensors that are no parameters and that we compute; read ones must equal them.
    ignored: (regex, reason) for tensors that may be there and are left out.
    """

    rules: tuple[Rule, ...]
    buffers: Tensors = dataclasses.field(default_factory=dict)
    ignored: tuple[tuple[str, str], ...] = ()

    def from_torch(self, tensors: Tensors, abstract: Any) -> Any:
        """The parameter tree. abstract: the tree with shapes for leaves -> float32 numpy arrays.

        Raises ConversionError listing all tensors that are unknown, missing, claimed twice, or of
        another shape or type.
        """
        slots, problems = self._slots(abstract)
        problems += [f"missing: {key} {slots[key].torch_shape}" for key in slots.keys() - tensors]
        for key, tensor in tensors.items():
            if key in slots:
                expected = slots[key].torch_shape
            elif key in self.buffers:
                expected = self.buffers[key].shape
            else:
                if not any(re.match(pattern, key) for pattern, _ in self.ignored):
                    problems.append(f"unknown: {key} {tensor.shape}")
                continue
            if tensor.shape != expected:
                problems.append(f"wrong shape: {key} {tensor.shape}, expected {expected}")
            elif not jnp.issubdtype(tensor.dtype, jnp.floating):
                problems.append(f"wrong type: {key} {tensor.dtype}, expected floating point")
            elif key in self.buffers:
                problems += _buffer_problems(key, tensor, self.buffers[key])
        if problems:
            raise ConversionError("these tensors do not fit the model:", sorted(problems))

        filled = {
            _name(path): np.empty(leaf.shape, np.float32)
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
        }
        for key, slot in slots.items():
            layer = ... if slot.layer is None else slot.layer
            filled[slot.path][layer] = slot.layout.to_ours(tensors[key], slot.shape)
        return jax.tree_util.tree_map_with_path(lambda path, _: filled[_name(path)], abstract)

    def to_torch(self, params: Any) -> dict[str, np.ndarray]:
        """The state dict of a parameter tree, buffers included. C-contiguous float32 arrays."""
        slots, problems = self._slots(params)
        if problems:
            raise ConversionError("these parameters do not fit the table:", problems)
        leaves = {_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
        arrays = {path: np.asarray(x, np.float32) for path, x in leaves.items()}
        tensors = {}
        for key, slot in slots.items():
            array = arrays[slot.path] if slot.layer is None else arrays[slot.path][slot.layer]
            tensors[key] = np.ascontiguousarray(slot.layout.to_torch(array))
        return tensors | dict(self.buffers)

    def torch_shapes(self, abstract: Any) -> dict[str, Shape]:
        """Shapes of all tensors and buffers of the state dict, without any values."""
        slots, problems = self._slots(abstract)
        if problems:
            raise ConversionError("these parameters do not fit the table:", problems)
        shapes = {key: slot.torch_shape for key, slot in slots.items()}
        return shapes | {key: buffer.shape for key, buffer in self.buffers.items()}

    def _slots(self, abstract: Any) -> tuple[dict[str, _Slot], list[str]]:
        slots: dict[str, _Slot] = {}
        problems = []
        for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
            path = _name(tree_path)
            for key, slot in self._slots_of(path, tuple(leaf.shape)):
                if key in slots:
                    problems.append(f"claimed twice: {key}, by {slots[key].path} and {path}")
                slots[key] = slot
        return slots, problems

    def _slots_of(self, path: str, shape: Shape) -> list[tuple[str, _Slot]]:
        for rule in self.rules:
            if match := re.fullmatch(rule.ours, path):
                groups = [group.replace("/", ".") for group in match.groups()]
                if "{L}" not in rule.torch:
                    slot = _Slot(path, None, shape, rule.layout)
                    return [(rule.torch.format(*groups), slot)]
                return [
                    (rule.torch.format(*groups, L=i), _Slot(path, i, shape[1:], rule.layout))
                    for i in range(shape[0])
                ]
        raise ValueError(f"no rule of the key map matches our parameter '{path}'; add one")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _buffer_problems(key: str, tensor: np.ndarray, buffer: np.ndarray) -> list[str]:
    # PyTorch's cosines differ from the correctly rounded ones by a unit in the last place.
    tolerance = max(1e-5, float(jnp.finfo(tensor.dtype).eps))
    error = np.abs(tensor.astype(np.float32) - buffer).max()
    if error <= tolerance:
        return []
    return [f"wrong values: {key} differs by {error:.2g} from the table we compute"]


def lightningdit_keymap(config: LightningDiTConfig) -> KeyMap:
    """Table of the release's LightningDiT."""
    buffers = {}
    if config.use_rope:
        cos, sin = rotary_tables(config.grid, config.head_dim)
        buffers = {"feat_rope.freqs_cos": cos, "feat_rope.freqs_sin": sin}
    rules = (
        Rule("x_embedder.proj.weight", "x_embedder/kernel", PatchConv(config.patch_size)),
        Rule("x_embedder.proj.bias", "x_embedder/bias", Flat()),
        Rule("t_embedder.mlp.0.weight", "t_embedder/fc1/kernel", Linear()),
        Rule("t_embedder.mlp.0.bias", "t_embedder/fc1/bias", Flat()),
        Rule("t_embedder.mlp.2.weight", "t_embedder/fc2/kernel", Linear()),
        Rule("t_embedder.mlp.2.bias", "t_embedder/fc2/bias", Flat()),
        Rule("y_embedder.embedding_table.weight", "y_embedder/embedding", Same()),
        Rule("pos_embed", "pos_embed", Same(leading=1)),
        Rule("blocks.{L}.adaLN_modulation.1.weight", "blocks/adaLN_modulation/kernel", Linear()),
        Rule("blocks.{L}.adaLN_modulation.1.bias", "blocks/adaLN_modulation/bias", Flat()),
        Rule("blocks.{L}.attn.proj.weight", "blocks/attn/proj/kernel", Linear(in_axes=2)),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/kernel", Linear()),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/scale", Flat()),
        Rule("blocks.{L}.{0}.bias", "blocks/(.+)/bias", Flat()),
        Rule(
            "final_layer.adaLN_modulation.1.weight",
            "final_layer/adaLN_modulation/kernel",
            Linear(),
        ),
        Rule("final_layer.adaLN_modulation.1.bias", "final_layer/adaLN_modulation/bias", Flat()),
        Rule("final_layer.linear.weight", "final_layer/linear/kernel", Linear()),
        Rule("final_layer.linear.bias", "final_layer/linear/bias", Flat()),
        Rule("final_layer.norm_final.weight", "final_layer/norm_final/scale", Flat()),
    )
    return KeyMap(rules, buffers)


VAVAE_KEYMAP = KeyMap(
    rules=(
        Rule("{0}.{1}.weight", "(.+)/(q|k|v|proj_out)/kernel", Linear(kernel_size=(1, 1))),
        Rule("{0}.weight", "(.+)/kernel", Conv()),
        Rule("{0}.weight", "(.+)/scale", Flat()),
        Rule("{0}.bias", "(.+)/bias", Flat()),
    ),
    ignored=(
        (r"loss\.", "perceptual network and discriminator, for training only"),
        (r"foundation_model\.", "the frozen vision foundation model, for training only"),
        (r"linear_proj\.", "projection into the foundation model's space, for training only"),
    ),
)
