"""The metrics of a generator's samples that a config can name. A row stands in its own file."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.config_choices import Choice
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.inference.quality import digits, fid
from lightningdit_jax.inference.quality.metric import Judge, Judgment, Metric, Quality

METRICS: dict[str, Metric] = {**fid.METRICS, **digits.METRICS}


def metric_of(config: Config) -> Metric:
    """The row of evaluate.metric. Raises ValueError for an unknown one, naming the nearest."""
    name = config.evaluate.metric
    if name not in METRICS:
        raise ValueError(unknown_name("value of config.evaluate.metric", name, tuple(METRICS)))
    return METRICS[name]


def make_quality(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
    """What evaluate.metric says of samples as they are drawn, see Metric."""
    return metric_of(config).stream(config, mesh, class_names)


def make_judge(
    config: Config, mesh: Mesh, class_names: Sequence[str]
) -> tuple[Judge, dict[str, Any]]:
    """Who says all numbers of evaluate.metric of images in memory, and by what, see Metric."""
    metric = metric_of(config)
    if metric.judge is not None:
        return metric.judge(config, mesh, class_names)
    quality = metric.stream(config, mesh, class_names)
    return lambda batches, labels: Judgment(quality(batches, labels)), {}


def metric_choice() -> Choice:
    """config.evaluate.metric, and the keys of config.evaluate that each metric reads."""
    reads = {name: [f"evaluate.{key}" for key in row.reads] for name, row in METRICS.items()}
    return Choice("evaluate.metric", reads)
