"""What a measure of a tokenizer is to all who use it: a row of tokenizer_measures.py."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.tokenizer_networks import Judges
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors, Subject


class Given(NamedTuple):
    """What a measure finds: networks, number of the images, side of the latents.

    has_classes: whether the images are of two classes or more, of all that there may be.
    """

    networks: Judges
    has_classes: bool
    num_images: int
    side: int
    neighbors: Neighbors


@dataclasses.dataclass(frozen=True)
class Measure:
    """Numbers of a tokenizer and images. All processes call it alike.

    take(subject): the numbers. check(given): raises ValueError or ImportError for what is missing,
    before anything is computed. reads: the keys of config.evaluate that no other measure reads.
    """

    take: Callable[[Subject], Numbers]
    check: Callable[[Given], None] = lambda given: None
    reads: tuple[str, ...] = ()
