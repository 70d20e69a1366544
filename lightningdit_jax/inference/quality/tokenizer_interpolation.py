"""iFID: how good the images between neighboring latents are. Xu et al. 2026, arXiv 2603.05630."""

from collections.abc import Callable

import numpy as np

from lightningdit_jax.evaluation.cosine_neighbors import nearest_by_cosine
from lightningdit_jax.evaluation.frechet import frechet_distance
from lightningdit_jax.evaluation.interpolation import drawn_neighbors, spherical_midpoint
from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.tokenizer_measure import Given, Measure
from lightningdit_jax.inference.quality.tokenizer_subject import Subject

_ROWS = 256  # latents whose candidates are held at once: 84 MB of ten each of 16x16x32


def _take(subject: Subject) -> Numbers:
    """Fréchet distance of the images from those of the midpoints of latents and neighbors."""
    features, prefix = subject.networks.features, subject.networks.prefix
    assert features is not None  # as checked
    decode = subject.decoder(along=False)
    originals = [
        features(arrays["images"], batch.names)
        for batch, arrays in subject.batches(images=subject.images)
    ]
    reference = subject.moments(originals).gaussian

    def distance(latents: np.ndarray) -> float:
        rows = {"latents": subject.normalized(latents), "indices": subject.indices}
        found = [
            features(decode(batch, arrays, 0), batch.names)
            for batch, arrays in subject.batches(**rows)
        ]
        return frechet_distance(*reference, *subject.moments(found).gaussian)

    numbers = {f"{prefix}ifid": distance(_midpoints(subject))}
    if prefix:  # without one it is that of reconstruction, which is there already
        numbers[f"reconstruction_{prefix}fid"] = distance(subject.latents)
    return numbers


def _midpoints(subject: Subject) -> np.ndarray:
    """Of this process's latents, as encoded, and a neighbor of each. [n, h, w, d]."""
    neighbors, every = subject.neighbors, subject.all_latents
    read: Callable[[np.ndarray], np.ndarray] = neighbors.read or every.__getitem__
    own, total = None, neighbors.total
    if neighbors.read is None:
        own, total = subject.indices, len(every)
    nearest = nearest_by_cosine(
        subject.latents,
        lambda start, stop: read(np.arange(start, stop)),
        total,
        neighbors.count,
        own,
    )
    uniform = np.random.default_rng(subject.seed).random(len(every))[subject.indices]
    parts = [np.zeros_like(subject.latents[:0])]
    for start in range(0, len(nearest), _ROWS):
        rows = slice(start, start + _ROWS)
        latents, chosen = subject.latents[rows], nearest[rows]
        candidates = read(chosen.ravel()).reshape(*chosen.shape, *latents.shape[1:])
        drawn = drawn_neighbors(latents, candidates, uniform[rows])
        parts.append(spherical_midpoint(latents, drawn))
    return np.concatenate(parts)


def _check(given: Given) -> None:
    if given.networks.features is None:
        raise ValueError(
            "config.evaluate.measures has 'ifid', which needs config.evaluate.inception, a "
            "converted Inception network, where the images are not the ten digits"
        )
    neighbors = given.neighbors
    total = given.num_images - 1 if neighbors.read is None else neighbors.total
    if total < neighbors.count or given.num_images < 2:
        raise ValueError(
            f"config.evaluate.ifid_neighbors is {neighbors.count}, and there are {total:,} latents "
            f"to choose among, of {given.num_images:,} images; evaluate more images, name a folder "
            "of latents with config.evaluate.ifid_latents, or set it to fewer"
        )


MEASURES = {"ifid": Measure(_take, _check, reads=("ifid_latents", "ifid_neighbors"))}
