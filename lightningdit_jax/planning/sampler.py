"""How many images a sampler draws and decodes at once, by what its devices can hold."""

import dataclasses
import itertools

import numpy as np

from lightningdit_jax.config import SampleConfig
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.plan import MARGIN

# More images at a time are no faster, but are lost together and keep everybody waiting.
_AT_MOST = {"tpu": 64, "gpu": 64, "cpu": 16}
_DECODED_AT_MOST = 16
# What one evaluation works with, a token, over its width and its MLP's (docs/planning.md).
_WORKING = {"tpu": 12.0, "gpu": 4.0, "cpu": 12.0}
# Arrays as large as the decoder's largest, that decoding one image needs.
_DECODING = {"tpu": 6.0, "gpu": 4.0, "cpu": 6.0}
# Weights, which are cast already, with what is arranged anew of them.
_WEIGHTS = {"tpu": 1.5, "gpu": 1.25, "cpu": 1.5}


@dataclasses.dataclass(frozen=True)
class SamplerPlan:
    """batch_size: of all devices. decode_batch_size: of one. peak_bytes: expected of each."""

    batch_size: int
    decode_batch_size: int
    peak_bytes: float

    def line(self, hardware: Hardware) -> str:
        """What was chosen and what it is expected to take."""
        peak, memory = (size / 2**30 for size in (self.peak_bytes, hardware.memory_bytes))
        return (
            f"plan for {hardware}: {self.batch_size:,} images at a time, decoded "
            f"{self.decode_batch_size} at once on each; {peak:.1f} of {memory:.1f} GiB expected"
        )


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is sampled from. weight_bytes: of all networks as they lie on a device.

    resolution: of the images. decoder_width: channels of the decoder at that resolution. shards:
    parts that a batch is cut into. num_images: that are asked for, None is many. resident_bytes: of
    what else is there, such as the state of a training run.
    """

    generator: LightningDiTConfig
    resolution: int
    decoder_width: int
    weight_bytes: int
    dtype: str
    shards: int
    platform: str
    num_images: int | None = None
    resident_bytes: int = 0

    def peak_bytes(self, batch_size: int, decode_batch_size: int) -> float:
        """Expected of each device, for a batch of all of them."""
        item, each = np.dtype(self.dtype).itemsize, -(-batch_size // self.shards)
        dit, pixels = self.generator, self.resolution**2
        # Both halves of guidance.
        tokens = 2 * each * dit.grid**2
        working, decoding = _WORKING[self.platform], _DECODING[self.platform]
        working *= tokens * (dit.hidden_size + dit.mlp_hidden) * item
        decoding *= min(decode_batch_size, each) * pixels * self.decoder_width * item
        weights = _WEIGHTS[self.platform] * self.weight_bytes
        images = 3 * batch_size * pixels  # whole on every device
        return self.resident_bytes + weights + images + max(working, decoding)


def sampler_plan(options: SampleConfig, hardware: Hardware, drawing: Drawing) -> SamplerPlan:
    """The most images at once that fit, and no more than help; what options say is kept.

    Raises ValueError where not even one fits.
    """
    most = _AT_MOST[hardware.platform]
    if drawing.num_images is not None:
        most = min(most, -(-drawing.num_images // drawing.shards))
    batches = [drawing.shards * each for each in _halves(most)]
    chunks = _halves(_DECODED_AT_MOST)
    if options.batch_size != "auto":
        batches = [options.batch_size]
    if options.decode_batch_size != "auto":
        chunks = [options.decode_batch_size]
    asked = len(batches) == len(chunks) == 1
    for batch, chunk in itertools.product(batches, chunks):
        peak = drawing.peak_bytes(batch, chunk)
        if asked or peak <= MARGIN * hardware.memory_bytes:
            return SamplerPlan(batch, chunk, peak)
    raise ValueError(
        f"one image at a time on {hardware} is expected to take {peak / 2**30:.1f} GiB, where "
        f"there are {hardware.memory_bytes / 2**30:.1f}; try it all the same with "
        "--config.sample.batch_size=1 --config.sample.decode_batch_size=1, or more devices"
    )


def _halves(most: int) -> list[int]:
    """most, and halves of it down to 1."""
    return [most >> shift for shift in range(most.bit_length())]
