"""What is said of latents without a look at images."""

import dataclasses
import importlib.util

import numpy as np

from lightningdit_jax.evaluation.cosine_neighbors import neighbor_purity
from lightningdit_jax.evaluation.linear_probe import probe_accuracy
from lightningdit_jax.evaluation.spatial_structure import local_distant_similarity
from lightningdit_jax.evaluation.spectrum import (
    effective_rank,
    high_frequency_share,
    power_spectrum,
    spectral_slope,
)
from lightningdit_jax.evaluation.uniformity import kernel_density, tsne_layout, uniformity
from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.tokenizer_measure import Given, Measure
from lightningdit_jax.inference.quality.tokenizer_subject import Subject

_VECTORS = 10_000  # that evenness is of, at most, as in the paper of VA-VAE
_PERPLEXITY = 30  # of t-SNE, which takes more vectors than that


def _spectrum(subject: Subject) -> Numbers:
    latents = subject.normalized(subject.all_latents)
    power = power_spectrum(latents)
    return {
        "latent_spectral_slope": spectral_slope(power),
        "latent_high_frequency_share": high_frequency_share(power),
        "latent_effective_rank": effective_rank(_pooled(latents)),
    }


def _structure(subject: Subject) -> Numbers:
    latents = subject.normalized(subject.all_latents)
    return {"latent_local_similarity": local_distant_similarity(latents)}


def _probe(subject: Subject) -> Numbers:
    latents, labels = subject.normalized(subject.all_latents), subject.labels
    pooled = _pooled(latents)
    return {
        "probe_accuracy": probe_accuracy(latents.reshape(len(latents), -1), labels),
        "probe_pooled_accuracy": probe_accuracy(pooled, labels),
        "neighbor_purity": neighbor_purity(pooled, labels),
    }


def _evenness(subject: Subject) -> Numbers:
    """Of one position of each image, drawn at random, as scripts/visualize_latents.py has it."""
    latents = subject.normalized(subject.all_latents)
    count = min(len(latents), _VECTORS)
    chosen = np.arange(count) * len(latents) // count
    rng = np.random.default_rng(subject.seed)
    rows, columns = (rng.integers(0, side, count) for side in latents.shape[1:3])
    vectors = latents[chosen, rows, columns]
    found = uniformity(kernel_density(tsne_layout(vectors, subject.seed)))
    return {
        f"density_{name.removeprefix('density_')}": value
        for name, value in dataclasses.asdict(found).items()
    }


def _pooled(latents: np.ndarray) -> np.ndarray:
    """Mean over positions. [N, h, w, d] -> float64 [N, d]."""
    return latents.mean(axis=(1, 2), dtype=np.float64)


def _check_side(given: Given) -> None:
    if given.side < 2:
        raise ValueError(
            f"config.evaluate.measures has 'spectrum' or 'structure', and latents are {given.side}x"
            f"{given.side}; they are of 2x2 at least. Leave them out"
        )


def _check_labels(given: Given) -> None:
    if not given.has_classes:
        raise ValueError(
            "config.evaluate.measures has 'probe', and all images are of one class; it takes "
            "labels of two or more, see config.data.labels, and of a folder sorted by class "
            "images enough that there are two (config.evaluate.num_images)"
        )


def _check_vectors(given: Given) -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError(
            "config.evaluate.measures has 'evenness', whose t-SNE comes with scikit-learn: "
            "pip install -e '.[digits]'"
        )
    if given.num_images <= _PERPLEXITY:
        raise ValueError(
            f"config.evaluate.measures has 'evenness', and there are {given.num_images} images; "
            f"it takes more than {_PERPLEXITY}"
        )


MEASURES = {
    "spectrum": Measure(_spectrum, _check_side),
    "structure": Measure(_structure, _check_side),
    "probe": Measure(_probe, _check_labels),
    "evenness": Measure(_evenness, _check_vectors),
}
