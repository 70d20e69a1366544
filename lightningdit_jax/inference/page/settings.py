"""What the controls of a page say, as a config of --mode=sample."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightningdit_jax.config import Config, from_dict
from lightningdit_jax.data.class_names import split_list
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.inference.sampling.options import choose_labels
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions

FIRST = 8  # images of a drawing, before anybody asks for more or fewer
MOST = 1000
# Of averages: which of them can be made says between which others can.
WIDTHS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25)
# Keys of config.sample with a control of their own, in the order of the page.
SAMPLING = (
    "solver",
    "num_steps",
    "cfg_scale",
    "cfg_channels",
    "cfg_interval_start",
    "cfg_interval_end",
    "timestep_shift",
    "ig_scale",
    "ig_interval_start",
    "ig_interval_end",
    *OF_GUIDANCE,
    "ema_sigma",
)


def first_settings(config: Config, num_classes: int, class_names: Sequence[str]) -> dict[str, Any]:
    """What the controls say at first: "labels" (numbers), "seed", "num_samples" and SAMPLING.

    Raises ValueError for config.sample.labels that are none of the generator's.
    """
    labels: list[int] = []
    if not _is_drawn(config.sample.labels):
        count = len(split_list("sample.labels", config.sample.labels))
        chosen = choose_labels(config.sample.labels, count, num_classes, 0, class_names)
        labels = list(dict.fromkeys(chosen.tolist()))
    sampling = {name: getattr(config.sample, name) for name in SAMPLING}
    return {"labels": labels, "seed": config.seed, "num_samples": FIRST, **sampling}


def unread(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings that the others leave without meaning, by name, and why."""
    why: dict[str, str] = {}
    solver = SOLVERS.get(settings["solver"])
    if solver is not None and solver.times_by:
        why["timestep_shift"] = "the solver has its times"
    if settings["solver"] != "euler":
        why["apg_momentum"] = "with euler alone"
    if settings["cfg_schedule"] != "power_cosine":
        why["cfg_power"] = "of power_cosine"
    if settings["cfg_scale"] == 1:
        why |= dict.fromkeys(OF_GUIDANCE, "guidance is 1")
    return why


def requested(config: Config, settings: Mapping[str, Any], class_names: Sequence[str]) -> Config:
    """The config of --mode=sample that draws what the controls say.

    Without labels they are those of config.sample, or random where that lists some; settings that
    are unread have their defaults. Raises ValueError as `from_dict`, and for more than MOST images.
    """
    off = {name: getattr(SamplingOptions, name) for name in unread(settings)}
    values, settings = config.to_dict(), {**settings, **off}
    labels, seed = settings.pop("labels"), settings.pop("seed")
    if labels:
        settings["labels"] = _as_listed(labels, class_names)
    elif not _is_drawn(config.sample.labels):
        settings["labels"] = "random"
    asked = from_dict({**values, "seed": seed, "sample": {**values["sample"], **settings}})
    if asked.sample.num_samples > MOST:
        raise ValueError(
            f"config.sample.num_samples is {asked.sample.num_samples:,}; a page draws {MOST:,} at "
            "most, --mode=sample as many as you like"
        )
    return asked


def requested_labels(asked: Config, num_classes: int, class_names: Sequence[str]) -> np.ndarray:
    """The label of each image that a config asks for, int32 [N]; ValueError as choose_labels."""
    options = asked.sample
    return choose_labels(options.labels, options.num_samples, num_classes, asked.seed, class_names)


def _is_drawn(labels: str) -> bool:
    return labels in ("random", "balanced")


def _as_listed(labels: Sequence[int], class_names: Sequence[str]) -> str:
    """As config.sample.labels takes them: by name where a number is also another's name."""
    misread = {n for n in labels if str(n) in class_names and class_names.index(str(n)) != n}
    text = io.StringIO()
    parts = [f"name:{class_names[n]}" if n in misread else str(n) for n in labels]
    csv.writer(text, lineterminator="").writerow(parts)
    return text.getvalue()
