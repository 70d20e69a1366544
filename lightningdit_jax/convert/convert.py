"""State dicts of the PyTorch release <-> architecture and parameter tree."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.convert.keymaps import (
    VAVAE_KEYMAP,
    ConversionError,
    KeyMap,
    Shape,
    lightningdit_keymap,
)
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.models.lightningdit import VARIANTS, LightningDiT, LightningDiTConfig
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig

Config = LightningDiTConfig | VAVAEConfig


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A model that can be converted."""

    module: Callable[..., nnx.Module]
    keymap: Callable[[Any], KeyMap]


_KINDS = {
    "lightningdit": _Kind(LightningDiT, lightningdit_keymap),
    "vavae": _Kind(VAVAE, lambda config: VAVAE_KEYMAP),
}


def params_from_torch(
    kind: str,
    tensors: Mapping[str, np.ndarray],
    *,
    num_heads: int | None = None,
    null_class: bool = True,
) -> tuple[Config, Any]:
    """Architecture and parameters of a state dict. -> (config, nested dict of float32 numpy).

    kind: "lightningdit" or "vavae". The architecture is read from names and shapes. Those of a
    generator leave two things open: num_heads, needed where there are neither rotary tables nor
    q/k norms and the width is not a published one, and whether the last label is the null class.
    Raises ConversionError, a ValueError that lists every tensor that does not fit.
    """
    entry = _kind(kind)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if kind == "lightningdit":
        config = infer_lightningdit(shapes, num_heads=num_heads, null_class=null_class)
    else:
        config = infer_vavae(shapes)
    return config, entry.keymap(config).from_torch(tensors, abstract_params(kind, config))


def params_to_torch(kind: str, config: Config, params: Any) -> dict[str, np.ndarray]:
    """State dict with the release's names, layouts and buffers. Reads back bit-identically.

    Rotary buffers are computed, and can differ from PyTorch's in the last bit.
    Raises ConversionError listing parameters that are missing, too many, or of another shape.
    """
    expected, found = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}
        for leaves in map(
            jax.tree_util.tree_leaves_with_path, (abstract_params(kind, config), params)
        )
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
    return _kind(kind).keymap(config).to_torch(params)


def torch_shapes(kind: str, config: Config) -> dict[str, Shape]:
    """Names and shapes of the state dict of an architecture, without making any array."""
    return _kind(kind).keymap(config).torch_shapes(abstract_params(kind, config))


def abstract_params(kind: str, config: Config) -> Any:
    """The parameter tree of an architecture with ShapeDtypeStructs for leaves."""
    module = _kind(kind).module
    abstract = nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


def _kind(kind: str) -> _Kind:
    if kind not in _KINDS:
        raise ValueError(unknown_name("kind", kind, tuple(_KINDS)))
    return _KINDS[kind]


class _Shapes:
    """Shapes by name; a name that is not there is a ConversionError, not a KeyError."""

    def __init__(self, kind: str, shapes: Mapping[str, Shape]):
        self.kind, self.shapes = kind, shapes

    def get(self, key: str, ndim: int) -> Shape:
        """The shape of a tensor, which must have ndim axes."""
        if key not in self.shapes:
            self.fail(f"missing: {key}")
        if len(self.shapes[key]) != ndim or 0 in self.shapes[key]:
            self.fail(f"wrong shape: {key} {self.shapes[key]}, expected {ndim} axes")
        return self.shapes[key]

    def count(self, pattern: str) -> int:
        """One more than the largest number that the pattern's group matches; 0 if none."""
        matches = (re.match(pattern, key) for key in self.shapes)
        return max((int(m[1]) + 1 for m in matches if m), default=0)

    def fail(self, problem: str) -> NoReturn:
        raise ConversionError(f"cannot tell the architecture of this {self.kind}:", [problem])


def infer_lightningdit(
    shapes: Mapping[str, Shape], *, num_heads: int | None = None, null_class: bool = True
) -> LightningDiTConfig:
    """Architecture of a LightningDiT, from the shapes of its state dict.

    class_dropout_prob is not in the weights: 0.1 as published, 0 without a null class.
    Raises ConversionError naming the tensor that does not tell what it should.
    """
    found = _Shapes("lightningdit", shapes)
    dim, channels, patch, _ = found.get("x_embedder.proj.weight", 4)
    tokens = found.get("pos_embed", 3)[1]
    grid = math.isqrt(tokens)
    if grid**2 != tokens:
        found.fail(f"wrong shape: pos_embed {shapes['pos_embed']}, expected a square of tokens")
    depth = found.count(r"blocks\.(\d+)\.")
    use_swiglu = "blocks.0.mlp.w12.weight" in shapes
    if use_swiglu:
        mlp_hidden = found.get("blocks.0.mlp.w12.weight", 2)[0] // 2
    else:
        mlp_hidden = found.get("blocks.0.mlp.fc1.weight", 2)[0]
    out = found.get("final_layer.linear.weight", 2)[0]
    return LightningDiTConfig(
        input_size=grid * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=dim,
        depth=depth,
        num_heads=_infer_heads(found, dim, num_heads),
        mlp_ratio=_infer_mlp_ratio(found, dim, mlp_hidden, use_swiglu),
        num_classes=found.get("y_embedder.embedding_table.weight", 2)[0] - null_class,
        class_dropout_prob=0.1 if null_class else 0.0,
        learn_sigma=out == 2 * patch**2 * channels,
        use_qknorm="blocks.0.attn.q_norm.weight" in shapes,
        use_swiglu=use_swiglu,
        use_rope="feat_rope.freqs_cos" in shapes,
        use_rmsnorm="blocks.0.norm1.weight" in shapes,
        wo_shift=found.get("blocks.0.adaLN_modulation.1.weight", 2)[0] == 4 * dim,
    )


def _infer_heads(found: _Shapes, dim: int, num_heads: int | None) -> int:
    if "feat_rope.freqs_cos" in found.shapes:
        head_dim = found.get("feat_rope.freqs_cos", 2)[1]
    elif "blocks.0.attn.q_norm.weight" in found.shapes:
        (head_dim,) = found.get("blocks.0.attn.q_norm.weight", 1)
    else:
        published = {v["hidden_size"]: v["num_heads"] for v in VARIANTS.values()}
        if num_heads is None and dim not in published:
            found.fail(
                f"the weights do not tell the number of heads (hidden_size {dim}); give num_heads"
            )
        return published[dim] if num_heads is None else num_heads
    if dim % head_dim or num_heads not in (None, dim // head_dim):
        found.fail(f"num_heads is {num_heads}, but heads are {head_dim} of {dim} wide")
    return dim // head_dim


def _infer_mlp_ratio(found: _Shapes, dim: int, mlp_hidden: int, use_swiglu: bool) -> float:
    """The published 4, or the smallest ratio that gives this width after rounding."""
    full = math.ceil(1.5 * mlp_hidden) if use_swiglu else mlp_hidden
    for ratio in (4.0, full / dim, (full + 0.5) / dim):
        hidden = int(dim * ratio)
        if mlp_hidden == (int(2 / 3 * hidden) if use_swiglu else hidden):
            return ratio
    found.fail(f"no mlp_ratio gives an MLP {mlp_hidden} wide")


def infer_vavae(shapes: Mapping[str, Shape]) -> VAVAEConfig:
    """Architecture of an LDM autoencoder, from the shapes of its state dict.

    The nominal resolution only says where attention stands; it is taken to make that 16, as in the
    release (256 for f16 with attention at the coarsest level).
    Raises ConversionError naming the tensor that does not tell what it should.
    """
    found = _Shapes("vavae", shapes)
    ch, in_channels, _, _ = found.get("encoder.conv_in.weight", 4)
    # The decoder always has a block a level; an encoder without residual blocks has none.
    levels = found.count(r"decoder\.up\.(\d+)\.")
    widths = [found.get(f"decoder.up.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    if levels == 0 or any(width % ch for width in widths):
        found.fail(f"levels are {widths} channels wide; expected multiples of {ch}")
    encoder = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes]
    decoder = [i for i in range(levels) if f"decoder.up.{i}.attn.0.q.weight" in shapes]
    deepest = max(encoder + decoder, default=levels - 1)
    resolution = max(16 * 2**deepest, 2 ** (levels - 1))
    return VAVAEConfig(
        resolution=resolution,
        in_channels=in_channels,
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=found.count(r"encoder\.down\.0\.block\.(\d+)\."),
        encoder_attn_resolutions=tuple(resolution >> i for i in encoder),
        decoder_attn_resolutions=tuple(resolution >> i for i in decoder),
        z_channels=found.get("decoder.conv_in.weight", 4)[1],
        embed_dim=found.get("post_quant_conv.weight", 4)[1],
    )
