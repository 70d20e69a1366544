"""A tokenizer's train step: the memory and the time it takes, by formulas fitted to programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightningdit_jax.models.vae_config import VAVAEConfig
from lightningdit_jax.parallel.sharding import Rules
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.memory import held_bytes
from lightningdit_jax.planning.placement import Placement, place
from lightningdit_jax.planning.speed import Speed

# Products over those of the model, with what is computed again for the backward passes.
_PRODUCTS = {"none": 1.0, "conv": 1.02, "block": 1.14}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a platform's compiler keeps, of the programs in docs/planning.md.

    fixed: gradients and copies of parameters, over the device's parameters. kept: of an image, by
    remat, in arrays as large as those between the decoder's residual blocks.
    """

    fixed: float
    kept: Mapping[str, float]


FITS = {
    "tpu": Fit(1.1, {"none": 3.9, "conv": 3.9, "block": 2.85}),
    "gpu": Fit(1.1, {"none": 5.4, "conv": 3.3, "block": 2.6}),
}
FITS["cpu"] = FITS["gpu"]


@dataclasses.dataclass(frozen=True)
class TokenizerStep:
    """The step of an architecture at a global batch. A Step of planning.plan.

    state: the abstract TrainState, cut by rules. frozen: abstract networks that the loss needs.
    dtype: of the products.
    """

    architecture: VAVAEConfig
    state: Any
    rules: Rules
    frozen: Any
    batch_size: int
    dtype: str
    hardware: Hardware

    policies = tuple(_PRODUCTS)
    accumulates = False

    def is_worth_cutting(self, fsdp: int) -> bool:
        """See Step: the output channels of its kernels can be cut."""
        return self.architecture.ch % fsdp == 0

    def on(self, sizes: Mapping[str, int]) -> "PlacedTokenizer":
        """See Step."""
        float32 = 4  # gradients of a tokenizer are summed so
        at = place(self.state, self.rules, self.batch_size, self.hardware, sizes, float32)
        return PlacedTokenizer(self, at)


@dataclasses.dataclass(frozen=True)
class PlacedTokenizer:
    """The step on a mesh. A Placed of planning.plan."""

    step: TokenizerStep
    at: Placement

    def peak_bytes(self, remat: str, parts: int) -> float:
        """The state and frozen networks, gradients, and what the blocks keep of the images."""
        step, at = self.step, self.at
        platform = step.hardware.platform
        fit, item = FITS[platform], np.dtype(step.dtype).itemsize
        kept = fit.kept[remat] * activations(step.architecture) * item * at.images
        held = at.state_bytes + held_bytes(step.frozen, platform)
        return held + fit.fixed * at.param_bytes + kept

    def seconds(self, remat: str, parts: int) -> float:
        """Products, the optimizer's pass, and what communication they do not hide."""
        step, at, speed = self.step, self.at, Speed(self.step.hardware)
        flops = _PRODUCTS[remat] * step_flops(step.architecture) * at.images
        arithmetic = speed.arithmetic(flops, at.images * step.architecture.resolution**2)
        return arithmetic + speed.update(at.state_bytes) + at.communication


def activations(architecture: VAVAEConfig) -> int:
    """Numbers between the residual blocks of an encoder and a decoder, for one image."""
    total = 0
    for level, factor in enumerate(architecture.ch_mult):
        side = architecture.resolution >> level
        blocks = 2 * architecture.num_res_blocks + 1  # a decoder has one more than an encoder
        total += side**2 * architecture.ch * factor * blocks
    return total


def step_flops(architecture: VAVAEConfig) -> float:
    """About what an image takes by the whole loss: good enough to compare plans by.

    training.vae_flops counts them, but traces every network for it.
    """
    convolutions = 0.0  # of residual blocks, two 3x3 each
    for level, factor in enumerate(architecture.ch_mult):
        side, channels = architecture.resolution >> level, architecture.ch * factor
        blocks = 2 * architecture.num_res_blocks + 1
        convolutions += blocks * 2 * 2 * 9 * (side * channels) ** 2
    return 4.5 * convolutions
