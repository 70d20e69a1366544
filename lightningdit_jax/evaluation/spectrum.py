"""How the power of latents is spread over spatial frequencies, and over channels."""

import numpy as np
from scipy.fft import dctn

BLOCK = 1024  # latents that are transformed at once


def power_spectrum(latents: np.ndarray) -> np.ndarray:
    """Mean power of each frequency of the cosine transform, over latents and channels.

    [N, h, w, d] -> float64 [h, w]. Orthonormal DCT-II of a latent's sides, as Skorokhodov et al.
    2025, arXiv 2502.14831, look at latents; here of the whole latent, not of blocks.
    """
    total = np.zeros(latents.shape[1:3])
    for start in range(0, len(latents), BLOCK):
        block = np.asarray(latents[start : start + BLOCK], np.float64)
        total += np.square(dctn(block, axes=(1, 2), norm="ortho")).sum(axis=(0, 3))
    return total / (len(latents) * latents.shape[3])


def spectral_slope(power: np.ndarray) -> float:
    """Exponent of the power law of a spectrum [h, w] in the distance from the mean's frequency.

    0 for white noise; below it where coarse structure has more power. A line through logarithms
    of all frequencies but that of the mean. The power spectrum of natural images falls so, and
    latents are to fall less, arXiv 2603.14645. Raises ValueError for fewer than two distances.
    """
    frequency = _frequencies(power.shape)
    kept = frequency > 0
    if len(np.unique(frequency[kept])) < 2:
        raise ValueError(f"a spectrum of {power.shape} has no slope; expected 2x2 at least")
    return float(np.polyfit(np.log(frequency[kept]), np.log(power[kept]), 1)[0])


def high_frequency_share(power: np.ndarray) -> float:
    """Share of the power without that of the mean that is in the upper half of either axis. 0 to 1.

    power: [h, w]. What a latent of half the sides could not hold.
    """
    height, width = power.shape
    rows, columns = np.ogrid[:height, :width]
    high = (2 * rows >= height) | (2 * columns >= width)
    return float(power[high].sum() / (power.sum() - power[0, 0]))


def effective_rank(features: np.ndarray) -> float:
    """Of features [N, D], over D: exp of the entropy of singular values as shares. 0 to 1.

    1 where all directions are used alike. Roy & Vetterli 2007; of pooled latents in Yue et al.
    2026, arXiv 2605.07915.
    """
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()) / features.shape[1])


def _frequencies(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each frequency from that of the mean, as a share of each axis. [h, w]."""
    rows, columns = (np.arange(side) / side for side in shape)
    return np.hypot(rows[:, None], columns)
