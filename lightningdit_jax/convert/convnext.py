"""ConvNeXt V2: timm's names; its authors' and Hugging Face's are brought to them."""

import re
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.convert.keymap import (
    Conv,
    Flat,
    Hints,
    KeyMap,
    Linear,
    Rule,
    StateShapes,
    Tensors,
)
from lightningdit_jax.models.convnext import ConvNeXtV2Config

SIGNS = (
    "stages.0.blocks.0.mlp.grn.weight",
    "stages.0.0.grn.gamma",
    "encoder.stages.0.layers.0.grn.weight",
)
# The authors' names, and behind them what Hugging Face calls otherwise.
_RENAMED = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"(blocks\.\d+)\.layernorm\.", r"\1.norm."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".grn.weight"),
    (r"\.grn\.beta$", ".grn.bias"),
    (r"(\d)\.grn\.", r"\1.mlp.grn."),
)

_KEYMAP = KeyMap(
    rules=(
        Rule("stem.0.weight", "stem_conv/kernel", Conv()),
        Rule("stem.0.bias", "stem_conv/bias", Flat()),
        Rule("stem.1.weight", "stem_norm/scale", Flat()),
        Rule("stem.1.bias", "stem_norm/bias", Flat()),
        Rule("stages.{0}.downsample.0.weight", r"stages/(\d+)/norm/scale", Flat()),
        Rule("stages.{0}.downsample.0.bias", r"stages/(\d+)/norm/bias", Flat()),
        Rule("stages.{0}.downsample.1.weight", r"stages/(\d+)/conv/kernel", Conv()),
        Rule("stages.{0}.downsample.1.bias", r"stages/(\d+)/conv/bias", Flat()),
        Rule("stages.{0}.blocks.{L}.{1}.weight", r"stages/(\d+)/blocks/(conv_dw)/kernel", Conv()),
        Rule("stages.{0}.blocks.{L}.{1}.weight", r"stages/(\d+)/blocks/(norm)/scale", Flat()),
        Rule("stages.{0}.blocks.{L}.{1}.bias", r"stages/(\d+)/blocks/(conv_dw|norm)/bias", Flat()),
        Rule("stages.{0}.blocks.{L}.mlp.{1}.weight", r"stages/(\d+)/blocks/(.+)/kernel", Linear()),
        Rule("stages.{0}.blocks.{L}.mlp.{1}.weight", r"stages/(\d+)/blocks/(.+)/scale", Flat()),
        Rule("stages.{0}.blocks.{L}.mlp.{1}.bias", r"stages/(\d+)/blocks/(.+)/bias", Flat()),
    ),
    ignored=(
        (r"(head|norm|layernorm|classifier)\.", "norm and classifier on top of the features"),
        (
            r"(mask_token$|proj\.|decoder\.|pred\.)",
            "decoder, for pretraining only",
        ),
    ),
)


def keymap(config: ConvNeXtV2Config) -> KeyMap:
    """Table of the network."""
    return _KEYMAP


def timm_names(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """The tensors by timm's names, vectors with one axis."""
    renamed = {}
    for key, value in tensors.items():
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        is_vector = value.ndim > 1 and value.shape[:-1] == (1,) * (value.ndim - 1)
        renamed[key] = value.reshape(-1) if is_vector and not key.startswith("head") else value
    return renamed


def infer(shapes: StateShapes, hints: Hints) -> ConvNeXtV2Config:
    """Stages, their depths and widths."""
    stages = max(shapes.count(r"stages\.(\d+)\."), 1)
    numbers = range(stages)
    depths = [max(shapes.count(rf"stages\.{i}\.blocks\.(\d+)\."), 1) for i in numbers]
    dims = [shapes.read(f"stages.{i}.blocks.0.conv_dw.bias", (128 << i,))[0] for i in numbers]
    return ConvNeXtV2Config(tuple(depths), tuple(dims))
