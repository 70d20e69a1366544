"""A generator's train step: the memory and the time it takes, by formulas fitted to programs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.parallel.sharding import Rules
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.placement import Placement, place
from lightningdit_jax.planning.speed import Speed

# Time of a step's arithmetic over that of one that computes nothing again. Less than the products'
# ratio (1.11 of attention_mlp, 1.25, 1.34): what is computed again need not be written and read.
_AGAIN = {"none": 1.0, "dots": 1.01, "attention_mlp": 1.03, "attention": 1.15, "block": 1.25}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the compiler of a platform adds to what has to be there.

    Of TPUs benchmarks/memory_model.py fits it, of the others a few programs say it
    (docs/planning.md). policies: what is chosen from. whole, parted: gradients, casts and copies of
    parameters, over the device's parameters, with the batch in one part and in several. working:
    what a backward pass has at a time, a token, over its width and its MLP's, by remat. unkept: the
    same that a block keeps without remat.
    """

    policies: tuple[str, ...]
    whole: float
    parted: float
    working: Mapping[str, float]
    unkept: float


FITS = {
    # In a loop over blocks "none" keeps more than a chip has.
    "tpu": Fit(
        policies=("dots", "attention_mlp", "attention", "block"),
        whole=1.92,
        parted=3.6,
        working={"none": 0, "dots": 13.1, "attention_mlp": 14.4, "attention": 19.0, "block": 13.6},
        unkept=9.9,
    ),
    # Unrolled, gradients take the place of activations.
    "gpu": Fit(
        policies=("none", "dots", "attention_mlp", "attention", "block"),
        whole=0.6,
        parted=1.7,
        working={"none": 0, "dots": 4, "attention_mlp": 6, "attention": 8, "block": 10},
        unkept=4.9,
    ),
    "cpu": Fit(
        policies=("none", "dots", "attention_mlp", "attention", "block"),
        whole=4.0,
        parted=4.0,
        working={"none": 16, "dots": 17, "attention_mlp": 15, "attention": 13, "block": 10},
        unkept=12.7,
    ),
}


@dataclasses.dataclass(frozen=True)
class GeneratorStep:
    """The step of an architecture at a global batch. A Step of planning.plan.

    state: the abstract TrainState, cut by rules. dtype: of the products. update_flops: of products
    of the optimizer's, a device. aligned: channels that the projector of an alignment keeps of a
    token.
    """

    architecture: LightningDiTConfig
    state: Any
    rules: Rules
    batch_size: int
    dtype: str
    hardware: Hardware
    update_flops: float = 0.0
    aligned: int = 0

    accumulates = True

    @property
    def policies(self) -> tuple[str, ...]:
        """See Fit."""
        return FITS[self.hardware.platform].policies

    def is_worth_cutting(self, fsdp: int) -> bool:
        """See Step: a part has the 8 rows of a TPU's tile."""
        return fsdp == 1 or self.architecture.hidden_size % (8 * fsdp) == 0

    def on(self, sizes: Mapping[str, int]) -> "PlacedGenerator":
        """See Step."""
        item = np.dtype(self.dtype).itemsize
        at = place(self.state, self.rules, self.batch_size, self.hardware, sizes, item)
        return PlacedGenerator(self, at)


@dataclasses.dataclass(frozen=True)
class PlacedGenerator:
    """The step on a mesh. A Placed of planning.plan."""

    step: GeneratorStep
    at: Placement

    def peak_bytes(self, remat: str, parts: int, fit: Fit | None = None) -> float:
        """The state, its gradients, what all blocks keep and what one works with.

        fit: None is the platform's.
        """
        architecture, fit = self.step.architecture, fit or FITS[self.step.hardware.platform]
        both = architecture.hidden_size + architecture.mlp_hidden
        channels = fit.working[remat] * both
        if architecture.aux_head_depth:  # its tokens and their gradient
            channels += 2 * architecture.hidden_size
        if self.step.aligned:
            channels += 2 * architecture.hidden_size + self.step.aligned
        gradients = (fit.whole if parts == 1 else fit.parted) * self.at.param_bytes
        kept = self.kept_bytes(architecture.depth, remat, parts, fit)
        return self.at.state_bytes + gradients + kept + self._bytes(channels, parts)

    def kept_bytes(self, depth: int, remat: str, parts: int, fit: Fit | None = None) -> float:
        """What so many blocks keep for a backward pass. fit: None is the platform's."""
        architecture, fit = self.step.architecture, fit or FITS[self.step.hardware.platform]
        both = architecture.hidden_size + architecture.mlp_hidden
        kept = fit.unkept * both if remat == "none" else kept_widths(architecture)[remat]
        return self._bytes(depth * kept, parts)

    def seconds(self, remat: str, parts: int) -> float:
        """Products, the optimizer's pass, and what communication they do not hide."""
        forward = forward_flops(self.step.architecture, aux_head=True)
        flops = 3 * forward * self.at.images / self.at.sizes["tensor"]
        speed = Speed(self.step.hardware)
        arithmetic = speed.arithmetic(_AGAIN[remat] * flops, self._tokens(parts))
        arithmetic += speed.arithmetic(self.step.update_flops, math.inf)
        return arithmetic + speed.update(self.at.state_bytes) + parts * self.at.communication

    def _bytes(self, channels: float, parts: int) -> float:
        """Of so many channels of each token."""
        item = np.dtype(self.step.dtype).itemsize
        return self._tokens(parts) * channels * item / self.at.sizes["tensor"]

    def _tokens(self, parts: int) -> float:
        return self.at.images / parts * self.step.architecture.grid**2


def kept_widths(architecture: LightningDiTConfig) -> dict[str, int]:
    """Channels that a block keeps of a token, by remat: its input, and what its policy names."""
    dim, hidden = architecture.hidden_size, architecture.mlp_hidden
    attention = 5 * dim  # q, k, v and what attention gives
    mlp = (2 if architecture.use_swiglu else 1) * hidden
    return {
        "block": dim,
        "attention": attention,
        "attention_mlp": attention + mlp,
        "dots": attention + mlp + 2 * dim,
    }
