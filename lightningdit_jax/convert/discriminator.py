"""PatchGAN: taming-transformers' names."""

import numpy as np

from lightningdit_jax.convert.keymap import (
    Channels,
    Conv,
    Flat,
    Hints,
    KeyMap,
    Rule,
    Same,
    StateShapes,
)
from lightningdit_jax.models.discriminator import DiscriminatorConfig

SIGN = "main.0.weight"


def keymap(config: DiscriminatorConfig) -> KeyMap:
    """Table of the discriminator, whose layers PyTorch numbers together with its activations."""
    rules, buffers = [], {}
    for layer in range(config.num_layers + 2):
        place = 0 if layer == 0 else 3 * layer - 1
        rules.append(Rule(f"main.{place}.weight", f"convs/{layer}/kernel", Conv()))
        rules.append(Rule(f"main.{place}.bias", f"convs/{layer}/bias", Flat()))
    for layer in range(config.num_layers):
        theirs, ours = f"main.{3 * layer + 3}", f"norms/{layer}"
        if config.norm == "actnorm":
            rules.append(Rule(f"{theirs}.{{0}}", f"{ours}/(loc|scale)", Channels()))
            buffers[f"{theirs}.initialized"] = np.array(1, np.uint8)
            continue
        rules.append(Rule(f"{theirs}.weight", f"{ours}/scale", Flat()))
        rules.append(Rule(f"{theirs}.bias", f"{ours}/bias", Flat()))
        rules.append(Rule(f"{theirs}.running_{{0}}", f"{ours}/(mean|var)", Flat()))
        rules.append(Rule(f"{theirs}.num_batches_tracked", f"{ours}/count", Same()))
    return KeyMap(tuple(rules), buffers)


def infer(shapes: StateShapes, hints: Hints) -> DiscriminatorConfig:
    """Architecture of a discriminator, from the shapes of its state dict."""
    ndf, in_channels, _, _ = shapes.read(SIGN, (64, 3, 4, 4))
    return DiscriminatorConfig(
        in_channels=in_channels,
        ndf=ndf,
        num_layers=max((shapes.count(r"main\.(\d+)\.") - 3) // 3, 1),
        norm="actnorm" if "main.3.loc" in shapes else "batchnorm",
    )
