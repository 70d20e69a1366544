"""Timesteps: random ones to train on, ordered grids to sample on. t = 0 is noise, t = 1 is data."""

import math
import statistics
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.sampling_options import TimestepShift

DISTRIBUTIONS = ("logit_normal", "uniform")
Times = TypeVar("Times", jax.Array, np.ndarray)
BASE_DIMENSIONS = 4096  # of a latent whose times are as they are; arXiv 2510.11690


def logit_normal(z: jax.Array, mean: float = 0.0, std: float = 1.0) -> jax.Array:
    """Standard normal draws z -> sigmoid(mean + std z) in (0, 1). Esser et al. 2024, sec. 3.1."""
    return jax.nn.sigmoid(mean + std * z)


def sample_timesteps(
    key: jax.Array, batch: int, distribution: str, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
    """Random training times, float32 [batch].

    distribution: "logit_normal" (mean and std of the normal behind the sigmoid) or "uniform" on
    [0, 1), which ignores mean and std. Raises ValueError for any other name.
    """
    if distribution == "logit_normal":
        return logit_normal(jax.random.normal(key, (batch,), jnp.float32), mean, std)
    if distribution == "uniform":
        return jax.random.uniform(key, (batch,), jnp.float32)
    raise ValueError(unknown_name("timestep distribution", distribution, DISTRIBUTIONS))


def even_quantiles(indices: np.ndarray) -> np.ndarray:
    """Numbers in (0, 1) by index from 0 on, float64 [N]: any first few lie evenly.

    The radical inverse of index + 1 in base 2: 1/2, 1/4, 3/4, 1/8, ... van der Corput 1935.
    """
    rest, place = np.asarray(indices, np.uint64) + np.uint64(1), 0.5
    numbers = np.zeros(rest.shape)
    while rest.any():
        numbers += place * (rest & np.uint64(1))
        rest, place = rest >> np.uint64(1), place / 2
    return numbers


def timestep_quantiles(
    quantiles: np.ndarray, distribution: str, mean: float = 0.0, std: float = 1.0
) -> np.ndarray:
    """Quantiles of `sample_timesteps`' law: numbers in (0, 1) -> times, float64 of their shape.

    Raises ValueError for an unknown distribution.
    """
    if distribution == "logit_normal":
        normal = statistics.NormalDist()
        z = np.array([normal.inv_cdf(quantile) for quantile in quantiles])
        return 1 / (1 + np.exp(-(mean + std * z)))
    if distribution == "uniform":
        return quantiles
    raise ValueError(unknown_name("timestep distribution", distribution, DISTRIBUTIONS))


def shift_timesteps(t: Times, shift: float) -> Times:
    """Warp t in [0, 1] to s t / (1 + (s - 1) t); s < 1 moves points towards noise (t = 0).

    shift 0 means off (t is returned as it is), and so does 1. Raises ValueError if negative.
    The release publishes its numbers with 0.3.
    """
    if shift < 0:
        raise ValueError(f"timestep shift is {shift}; expected 0 (off) or a positive number")
    if shift == 0:
        return t
    return shift * t / (1 + (shift - 1) * t)


def shift_for(shift: TimestepShift, dimensions: int) -> float:
    """The number for `shift_timesteps` that a shift means for latents of so many numbers.

    "dimension" is sqrt(4096 / dimensions): the more numbers, the more noise makes a latent as hard
    to tell. Esser et al. 2024, sec. 5.3.2; Zheng et al. 2025, arXiv 2510.11690, which have the
    inverse of it in a time that runs from data to noise.
    """
    return math.sqrt(BASE_DIMENSIONS / dimensions) if shift == "dimension" else shift


def even_grid(first: float, last: float, num_points: int) -> np.ndarray:
    """Evenly spaced times from first to last, float32 [num_points]: torch.linspace to the bit.

    As PyTorch computes it on processors with fused multiply-add: the step is float32, the first
    half counts up from `first` and the rest down from `last`, product and sum are rounded once.
    Raises ValueError for fewer than 2 points.
    """
    if num_points < 2:
        raise ValueError(
            f"num_steps is {num_points}; a time grid needs at least 2 points (num_steps counts "
            "grid points, so 2 make one solver step)"
        )
    first, last = np.float32(first), np.float32(last)
    # In float64 a product of a float32 step and a count is exact.
    step = np.float64((last - first) / np.float32(num_points - 1))
    i = np.arange(num_points)
    up, down = first + i * step, last - (num_points - 1 - i) * step
    return np.where(i < num_points // 2, up, down).astype(np.float32)


def time_grid(
    num_steps: int, shift: float = 0.0, interval: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    """Sampling times from 0 to 1, float32 [num_steps], warped by `shift_timesteps`.

    num_steps counts grid points, as in the release: 250 make 249 solver steps. interval: the ends
    before the warp, as `time_interval` gives them. Reversed, the grid runs from data to noise.
    Made by NumPy, outside of any trace, so that it is bit-identical to the release's.
    Raises ValueError for fewer than 2 points.
    """
    return shift_timesteps(even_grid(*interval, num_steps), float(shift))
