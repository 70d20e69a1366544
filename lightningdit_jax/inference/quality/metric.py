"""What a metric of a generator's samples is to all who use it: a row of metrics.py."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config

Numbers = dict[str, float]
# (batches of images uint8 [b, H, W, 3], labels of all of them [N]) -> numbers
Quality = Callable[[Iterator[np.ndarray], np.ndarray], Numbers]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A yardstick for samples, in a file or as they are drawn. All processes call it alike.

    file(config, workdir): the numbers of evaluate.samples, or those in WORKDIR, and what they
        are of.
    stream(config, mesh, class_names): a Quality; class_names are the generator's, () where they are
        not known. What is missing or does not fit is said here, before anything is drawn.
    stream_names: of the numbers of a stream. A sweep draws the first.
    reads: the keys of config.evaluate that it needs, its network's checkpoint among them.
    Both raise ValueError or FileNotFoundError for what is missing or does not fit.
    """

    file: Callable[[Config, str], tuple[Numbers, dict[str, Any]]]
    stream: Callable[[Config, Mesh, Sequence[str]], Quality]
    stream_names: tuple[str, ...]
    reads: tuple[str, ...] = ()
