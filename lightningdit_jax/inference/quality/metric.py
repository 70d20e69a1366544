"""What a metric of a generator's samples is to all who use it: a row of metrics.py."""

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.evaluation.error_bars import ErrorBar, of_jackknife

Numbers = dict[str, float]
# (batches of images uint8 [b, H, W, 3], labels of all of them [N]) -> numbers
Quality = Callable[[Iterator[np.ndarray], np.ndarray], Numbers]


class Judgment(NamedTuple):
    """Numbers, and the error bars of some of them where evaluate.jackknife_blocks asks for them."""

    numbers: Numbers
    bars: Mapping[str, ErrorBar] = types.MappingProxyType({})

    @classmethod
    def of(
        cls, numbers: Numbers, bars: Mapping[str, ErrorBar], *left_out: Sequence[Numbers]
    ) -> "Judgment":
        """left_out: numbers without each block of the samples, of those that have no bar yet."""
        found = {
            name: of_jackknife(numbers[name], [rest[name] for rest in without_each])
            for without_each in left_out
            for name in without_each[0]
        }
        bars = {**bars, **found}
        return cls({**numbers, **{name: bar.value for name, bar in bars.items()}}, bars)


# The same images and labels -> all numbers.
Judge = Callable[[Iterator[np.ndarray], np.ndarray], Judgment]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A yardstick for samples, in a file or as they are drawn. All processes call it alike.

    file(config, workdir): all numbers of evaluate.samples, or those in WORKDIR, and what they are
        of.
    stream(config, mesh, class_names): a Quality; class_names are the generator's, () where they are
        not known. What is missing or does not fit is said here, before anything is drawn.
    stream_names: of the numbers of a stream, or what says them of a config. A sweep draws the
        first.
    judge(config, mesh, class_names): a Judge, who says of images in memory what `file` says of a
        file that holds them, and what it compares them with. None where `stream` says all of it.
    reads: the keys of config.evaluate that it needs, its network's checkpoint among them.
    check(config, class_names): asked before any network is loaded; its files are there and fit.
    All raise ValueError or FileNotFoundError for what is missing or does not fit.
    """

    file: Callable[[Config, str], tuple[Judgment, dict[str, Any]]]
    stream: Callable[[Config, Mesh, Sequence[str]], Quality]
    stream_names: tuple[str, ...] | Callable[[Config], tuple[str, ...]]
    judge: Callable[[Config, Mesh, Sequence[str]], tuple[Judge, dict[str, Any]]] | None = None
    reads: tuple[str, ...] = ()
    check: Callable[[Config, Sequence[str]], None] = lambda config, class_names: None

    def names_of_stream(self, config: Config) -> tuple[str, ...]:
        """Of the numbers of a stream by this config."""
        names = self.stream_names
        return names(config) if callable(names) else names


def check_blocks(config: Config, count: int) -> None:
    """Raises ValueError for evaluate.jackknife_blocks of 1, or more than half as many samples."""
    blocks = config.evaluate.jackknife_blocks
    if blocks == 1 or count < 2 * blocks:
        raise ValueError(
            f"config.evaluate.jackknife_blocks is {blocks}, and {count:,} samples are judged; "
            f"expected 2 to {count // 2:,}, two samples a block or more, or 0 for no error bars"
        )
