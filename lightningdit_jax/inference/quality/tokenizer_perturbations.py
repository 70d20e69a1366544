"""What becomes of images whose latents are moved at random."""

import numpy as np

from lightningdit_jax.evaluation.frechet import frechet_distance
from lightningdit_jax.evaluation.perturbation import (
    SHARES,
    SIGMAS,
    local_continuity,
    slope_per_doubling,
)
from lightningdit_jax.evaluation.reconstruction import DATA_RANGE, psnr
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.tokenizer_measure import Measure
from lightningdit_jax.inference.quality.tokenizer_subject import Subject


def _continuity(subject: Subject) -> Numbers:
    """How far images move with their latents, both ways along random directions."""
    decode, distance = subject.decoder(along=True), subject.networks.distance
    found: dict[str, dict[float, list[np.ndarray]]] = {"rmse": {share: [] for share in SHARES}}
    if distance is not None:
        found["lpips"] = {share: [] for share in SHARES}
    rows = {"latents": subject.normalized(subject.latents), "indices": subject.indices}
    for batch, arrays in subject.batches(**rows):
        count = len(batch.names)
        still = decode(batch, arrays, 0)
        for share in SHARES:
            for amount in (share, -share):
                other = decode(batch, arrays, amount)
                pair = (local_rows(images, count) for images in (still, other))
                found["rmse"][share].append(_rmse(*pair))
                if distance is not None:
                    found["lpips"][share].append(distance(still, other, batch.names))
    return {
        f"continuity_{name}": local_continuity(
            {share: subject.mean(parts) for share, parts in by_share.items()}
        )
        for name, by_share in found.items()
    }


def _noise(subject: Subject) -> Numbers:
    """How well images are rebuilt from noisy latents."""
    decode, networks = subject.decoder(along=False), subject.networks
    scores: dict[str, dict[float, list[np.ndarray]]] = {"psnr": {}}
    if networks.distance is not None:
        scores["lpips"] = {}
    features: dict[float, list[np.ndarray]] = {}
    rows = {
        "latents": subject.normalized(subject.latents),
        "indices": subject.indices,
        "images": subject.images,
    }
    for batch, arrays in subject.batches(**rows):
        originals = subject.images[batch.rows]
        if networks.features is not None:
            features.setdefault(0.0, []).append(networks.features(arrays["images"], batch.names))
        for sigma in SIGMAS:
            images = decode(batch, arrays, sigma)
            there = psnr(originals, local_rows(images, len(batch.names)))
            scores["psnr"].setdefault(sigma, []).append(there)
            if networks.distance is not None:
                far = networks.distance(arrays["images"], images, batch.names)
                scores["lpips"].setdefault(sigma, []).append(far)
            if networks.features is not None:
                features.setdefault(sigma, []).append(networks.features(images, batch.names))
    means = {
        name: {sigma: subject.mean(parts) for sigma, parts in found.items()}
        for name, found in scores.items()
    }
    if features:
        gaussians = {s: subject.moments(parts).gaussian for s, parts in features.items()}
        reference = gaussians.pop(0.0)
        means[f"{networks.prefix}fid"] = {
            sigma: frechet_distance(*reference, *other) for sigma, other in gaussians.items()
        }
    numbers = {
        f"noise_{name}_{sigma}": value
        for name, by_sigma in means.items()
        for sigma, value in by_sigma.items()
    }
    return numbers | {"noise_psnr_slope": slope_per_doubling(means["psnr"])}


def _rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference of each pair of images, of pixels in 0 to 1. [b]."""
    difference = (a.astype(np.float32) - b) / np.float32(DATA_RANGE)
    return np.sqrt(np.square(difference).mean(axis=(1, 2, 3), dtype=np.float64))


MEASURES = {"continuity": Measure(_continuity), "noise": Measure(_noise)}
