"""Measures of tokenizers beside reconstruction, by name. A row stands in its own file."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.config_choices import Several
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.inference.quality import (
    tokenizer_interpolation,
    tokenizer_latents,
    tokenizer_perturbations,
)
from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.tokenizer_measure import Given, Measure
from lightningdit_jax.inference.quality.tokenizer_networks import Judges
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors, Subject
from lightningdit_jax.parallel.multihost import gather_numpy, print_once

MEASURES: dict[str, Measure] = {
    **tokenizer_interpolation.MEASURES,
    **tokenizer_perturbations.MEASURES,
    **tokenizer_latents.MEASURES,
}


def measure(
    tokenizer: Loaded,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    networks: Judges,
    neighbors: Neighbors,
    mesh: Mesh,
    batch_size: int = 64,
    seed: int = 0,
) -> Numbers:
    """The numbers of measures of these names; docs/evaluation.md says what they are.

    images: uint8 [n, H, W, 3] and labels int [n], those of this process; all processes have to call
    it. networks: who judges images, see open_judges and Judges.of_digits. neighbors: of iFID.
    batch_size is global. Raises ValueError for an unknown name and for what a measure lacks,
    FloatingPointError for latents or images that are not finite.
    """
    num_images = int(gather_numpy(np.array(len(images))).sum())
    first = labels[0] if len(labels) else -1  # of a process without images, which says nothing
    ends = gather_numpy(np.array([labels.min(initial=first), labels.max(initial=first)]))
    has_classes = len(np.unique(ends[ends >= 0])) > 1
    side = images.shape[1] // tokenizer.as_tokenizer().downsample_factor
    check_measures(names, Given(networks, has_classes, num_images, side, neighbors))
    subject = Subject(tokenizer, images, labels, networks, neighbors, mesh, batch_size, seed)
    numbers: Numbers = {}
    for name in names:
        print_once(f"measuring {name}")
        numbers |= MEASURES[name].take(subject)
    return numbers


def check_measures(names: Sequence[str], given: Given) -> None:
    """Raises ValueError or ImportError for an unknown measure, and for what one lacks."""
    for name in names:
        if name not in MEASURES:
            message = unknown_name("value of config.evaluate.measures", name, tuple(MEASURES))
            raise ValueError(message)
        MEASURES[name].check(given)


def measure_choice() -> Several:
    """config.evaluate.measures, and the keys of config.evaluate that each reads."""
    reads = {name: [f"evaluate.{key}" for key in row.reads] for name, row in MEASURES.items()}
    return Several("evaluate.measures", reads)
