"""Evaluations beside each other: what differs, and whether by more than the spread of sampling."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json
from lightningdit_jax.errors import difference
from lightningdit_jax.evaluation.error_bars import ErrorBar, of_difference, of_mean
from lightningdit_jax.evaluation.frechet_errors import INFINITY
from lightningdit_jax.inference.quality.metric import Numbers
from lightningdit_jax.inference.quality.networks import NETWORKS
from lightningdit_jax.inference.quality.sweep import read_rows
from lightningdit_jax.storage_errors import check_absent

COUNTS = ("num_samples", "num_images")
SMALLER, LARGER, UNKNOWN = (
    "smaller than the spread",
    "larger than the spread",
    "of unknown spread",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation.json says, or a row of a sweep.json.

    measured: what has to be the same for numbers to compare, by name; None where nobody knows.
    count: of the samples or images. weights: fingerprints. seeds: numbers by seed, where there are
    several.
    """

    name: str
    numbers: Numbers
    bars: Mapping[str, ErrorBar]
    seeds: Mapping[str, Numbers]
    measured: Mapping[str, Any]
    count: int
    weights: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of a number, the second less the first. bar: None where one of both has no error bar. by: how
    the bar was found.
    """

    name: str
    first: float
    second: float
    bar: ErrorBar | None
    by: str

    @property
    def words(self) -> str:
        """Whether it is more than chance among samples makes."""
        if self.bar is None:
            return UNKNOWN
        low, high = self.bar.interval
        return SMALLER if low <= 0 <= high else LARGER

    @property
    def is_constant(self) -> bool:
        """Whether it is one value in both, without any spread: of real images, say."""
        return self.first == self.second and (self.bar is None or not self.bar.standard_error)

    @property
    def line(self) -> str:
        """All of it, for people."""
        line = f"{self.name:28s} {self.first:10.4f} {self.second:10.4f}"
        line += f" {self.second - self.first:+10.4f}"
        if self.bar is not None:
            low, high = self.bar.interval
            line += f"  {low:+.4f} to {high:+.4f}"
        return f"{line}  {self.words} ({self.by})"


def read_evaluations(path: epath.PathLike) -> list[Evaluation]:
    """Those of a file: one of an evaluation.json, as many as rows of a sweep.json.

    Raises FileNotFoundError, and ValueError for another file or a damaged one.
    """
    path = epath.Path(path)
    if not path.exists():
        check_absent(path)
        raise FileNotFoundError(
            f"{path}: there is no such file; give WORKDIR/evaluation.json of --mode=evaluate, or "
            "WORKDIR/sweep.json of --mode=sweep"
        )
    if path.name.startswith("sweep"):
        return list(_of_sweep(path))
    return [_of_evaluation(path, read_json(path))]


def differences(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Of every number that both have and that can differ.

    Of the seeds that both have, where there are two or more, the differences seed by seed: what one
    seed's noise and labels do to both cancels. Else both error bars together, as Welch has it.
    Raises ValueError for evaluations that do not compare: by other networks, against other
    references, of other labels; or of other numbers of samples, unless both are extrapolated.
    """
    for what, found in first.measured.items():
        other = second.measured.get(what)
        if None not in (found, other) and found != other:
            said = difference(found, other, "{} and {}")
            raise ValueError(
                f"{first.name} and {second.name} do not compare: their {what} differ, {said}; "
                "evaluate both alike"
            )
    names = [n for n in first.numbers if n in second.numbers and n not in COUNTS]
    if first.count != second.count:
        names = [name for name in names if name.endswith(INFINITY)]
        if not names:
            raise ValueError(
                f"{first.name} is of {first.count:,} samples, {second.name} of {second.count:,}, "
                "and FID of fewer is larger; evaluate as many, or both with "
                "--config.evaluate.jackknife_blocks=50, which gives fid_infinity"
            )
    if not names:
        raise ValueError(
            f"{first.name} has {', '.join(first.numbers)}, {second.name} has "
            f"{', '.join(second.numbers)}: other metrics; evaluate both with one"
        )
    found = [_difference(name, first, second) for name in names]
    return [each for each in found if not each.is_constant] or found


def notes(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """What the intervals of two evaluations do not say, a line each."""
    if first.weights != second.weights:
        yield (
            "the weights differ: another training run may move the numbers more than another "
            "sampling seed does, and no interval here has that"
        )
    either = {**first.measured, **second.measured}
    unknown = [w for w in either if None in (first.measured.get(w), second.measured.get(w))]
    if unknown:
        yield f"not known of one or both: {', '.join(unknown)}"


def _difference(name: str, first: Evaluation, second: Evaluation) -> Difference:
    values = (first.numbers[name], second.numbers[name])
    seeds = [{s for s, n in e.seeds.items() if name in n} for e in (first, second)]
    common = [seed for seed in first.seeds if seed in seeds[0] & seeds[1]]
    if len(common) > 1:
        pairs = np.array([[e.seeds[s][name] for e in (first, second)] for s in common])
        bar = of_mean(pairs[:, 1] - pairs[:, 0])
        mean = pairs.mean(0)
        by = f"{len(common)} common seeds"
        return Difference(name, float(mean[0]), float(mean[1]), bar, by)
    lacking = [e.name for e in (first, second) if name not in e.bars]
    if lacking:
        return Difference(name, *values, None, f"no error bar in {' and '.join(lacking)}")
    bar = of_difference(first.bars[name], second.bars[name])
    return Difference(name, *values, bar, "both error bars")


def _of_evaluation(path: epath.Path, record: Mapping[str, Any]) -> Evaluation:
    get = _getter(path)
    of = get(record, "of", dict)
    numbers = _numbers(record)
    about = get(of, "samples", dict) or get(of, "images", dict)
    made_with = get(about, "made_with", dict) if about.get("made_with") else {}
    tokenizer = get(of, "tokenizer", dict)
    reference = get(of, "reference", dict)
    if "path" in reference:  # wherever it lies
        reference = {**reference, "path": epath.Path(get(reference, "path", str)).name}
    measured: dict[str, Any] = {"reference": reference or None}
    if "images" in of:
        kept = {k: v for k, v in about.items() if k not in ("path", "count")}
        measured = {"images": kept, "resolution": get(of, "settings", dict).get("resolution")}
    else:
        measured["labels"] = made_with.get("labels")
    for network in ("Inception", "LPIPS", *NETWORKS):
        if facts := get(of, network, dict):
            measured[f"{network} network"] = _without_path(facts)
    if facts := get(of, "ifid", dict):
        measured["neighbors of iFID"] = _without_path(facts)
    weights = {"tokenizer": tokenizer} if tokenizer else get(made_with, "weights", dict)
    return Evaluation(
        str(path),
        numbers,
        _bars(get, record, numbers),
        _seeds(get, record),
        measured,
        int(next((numbers[n] for n in COUNTS if n in numbers), about.get("count", 0))),
        {name: get(get(weights, name, dict), "fingerprint", str) for name in weights},
    )


def _of_sweep(path: epath.Path) -> Iterator[Evaluation]:
    rows, get = read_rows(path), _getter(path)
    every = [row["settings"] for row in rows]
    varied = [k for k in every[0] if any(s.get(k) != every[0][k] for s in every)] if every else []
    for number, row in enumerate(rows, 1):
        settings = row["settings"]
        said = ", ".join(f"{key} {settings.get(key)}" for key in varied) or f"row {number}"
        weights = get(settings, "weights", dict)
        yield Evaluation(
            f"{path}: {said}",
            _numbers(row["numbers"]),
            _bars(get, row, row["numbers"]),
            _seeds(get, row),
            {"labels": settings.get("labels")},
            settings.get("num_samples", 0),
            {name: get(get(weights, name, dict), "fingerprint", str) for name in weights},
        )


def _getter(path: epath.Path) -> Callable[[Mapping[str, Any], str, type], Any]:
    """Fields of one kind, empty where there is none; raises ValueError naming the file."""
    return lambda content, name, kind: field_of(path, content, name, kind, kind())


def _bars(get: Callable, record: Mapping[str, Any], numbers: Numbers) -> dict[str, ErrorBar]:
    stored = get(get(record, "error_bars", dict), "numbers", dict)
    bars = {}
    for name in stored.keys() & numbers.keys():
        error, degrees = (
            get(get(stored, name, dict), field, float) for field in ("standard_error", "degrees")
        )
        if degrees > 0:
            bars[name] = ErrorBar(numbers[name], error, degrees)
    return bars


def _seeds(get: Callable, record: Mapping[str, Any]) -> dict[str, Numbers]:
    seeds = get(record, "seeds", dict)
    return {seed: _numbers(get(seeds, seed, dict)) for seed in seeds}


def _numbers(record: Mapping[str, Any]) -> Numbers:
    return {name: v for name, v in record.items() if type(v) in (int, float)}


def _without_path(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in facts.items() if k != "path"}
