"""Inception of FID: the names of pytorch-fid and torch-fidelity."""

from lightningdit_jax.convert.keymap import (
    Conv,
    Flat,
    Hints,
    KeyMap,
    Linear,
    Rule,
    StateShapes,
)
from lightningdit_jax.models.inception import InceptionConfig

SIGN = "Conv2d_1a_3x3.conv.weight"

_KEYMAP = KeyMap(
    rules=(
        Rule("fc.weight", "fc/kernel", Linear()),
        Rule("fc.bias", "fc/bias", Flat()),
        Rule("{0}.conv.weight", "(.+)/conv/kernel", Conv()),
        Rule("{0}.bn.weight", "(.+)/bn/scale", Flat()),
        Rule("{0}.bn.bias", "(.+)/bn/bias", Flat()),
        Rule("{0}.bn.running_{1}", "(.+)/bn/(mean|var)", Flat()),
    ),
    ignored=((r".+\.num_batches_tracked$", "count of batches, of no use to a frozen network"),),
)


def keymap(config: InceptionConfig) -> KeyMap:
    """Table of the network, whose sizes are fixed."""
    return _KEYMAP


def infer(shapes: StateShapes, hints: Hints) -> InceptionConfig:
    """The number of classes, which is all that can differ."""
    return InceptionConfig(shapes.read("fc.bias", (1008,))[0])
