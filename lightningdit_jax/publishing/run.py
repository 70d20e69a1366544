"""What the workdir of a checkpoint holds that is of these weights: numbers and a picture."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.metrics_log import RECORDS, read_log

_OF_WEIGHTS = ("valid/", "eval/")  # what a record of training says of the weights of its step


@dataclasses.dataclass(frozen=True)
class Run:
    """numbers: of the evaluation, by name. settings: what they are of. training: numbers of the
    record at this step. best: {metric, value} where the checkpoint is the run's best. sweep: rows
    of settings and numbers. picture: of the newest step up to this one, of picture_step.
    """

    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, float] = dataclasses.field(default_factory=dict)
    best: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: tuple[tuple[Mapping[str, Any], Mapping[str, float]], ...] = ()
    picture: epath.Path | None = None
    picture_step: int = 0


def run_of(checkpoint: epath.Path, meta: Mapping[str, Any], fingerprint: str) -> Run:
    """What is known of the weights of a checkpoint; of one that lies in no workdir, nothing.

    fingerprint: of the weights, by which results of others are told and left out. Files that are
    damaged are left out with a line.
    """
    if checkpoint.parent.name not in ("checkpoints", "best"):
        return Run()
    workdir, step = checkpoint.parent.parent, meta["step"]

    def tried(name: str, kind: type) -> Any:
        path = workdir / name
        try:
            return read_json(path, kind) if path.exists() else kind()
        except ValueError as error:
            logging.warning("not in the model card: %s", error)
            return kind()

    evaluation, rows = tried("evaluation.json", dict), tried("sweep.json", list)
    of = evaluation.pop("of", {})
    if evaluation and not _mentions(of, fingerprint):
        logging.warning("evaluation.json is of other weights than these: not in the model card")
        evaluation, of = {}, {}
    sweep = [row for row in rows if _is_row(row) and _mentions(row["settings"], fingerprint)]
    pictures = [(int(path.stem), path) for path in _numbered(workdir / "pictures")]
    newest = max(((s, p) for s, p in pictures if s <= step), default=(0, None))
    return Run(
        numbers=_numbers(evaluation),
        settings=_settings(of),
        training=_record(workdir / RECORDS, step),
        best=meta.get("best", {}),
        sweep=tuple((row["settings"], _numbers(row["numbers"])) for row in sweep),
        picture=newest[1],
        picture_step=newest[0],
    )


def _is_row(row: Any) -> bool:
    fields = ("settings", "numbers")
    return isinstance(row, dict) and all(isinstance(row.get(name), dict) for name in fields)


def _mentions(value: Any, fingerprint: str) -> bool:
    """Whether a fingerprint stands somewhere in what was read of JSON."""
    if isinstance(value, Mapping):
        return any(_mentions(inner, fingerprint) for inner in value.values())
    return value == fingerprint


def _numbers(content: Mapping[str, Any]) -> dict[str, float]:
    return {name: v for name, v in content.items() if type(v) in (int, float)}


def _settings(of: Mapping[str, Any]) -> dict[str, Any]:
    """What samples were drawn with, or images taken, as the evaluation says it: plain values."""
    found: dict[str, Any] = {}
    for facts in (of.get("settings"), (of.get("samples") or {}).get("made_with")):
        for name, value in (facts or {}).items():
            if isinstance(value, str | int | float) and value not in ("", None):
                found[name] = value
    return found


def _record(path: epath.Path, step: int) -> dict[str, float]:
    """Numbers of the held-out and evaluated kinds in the records of a step."""
    found: dict[str, float] = {}
    for at, line in read_log(path)[0] if path.exists() else ():
        if at == step:
            found |= _numbers(json.loads(line))
    return {name: value for name, value in found.items() if name.startswith(_OF_WEIGHTS)}


def _numbered(folder: epath.Path) -> list[epath.Path]:
    there = folder.iterdir() if folder.is_dir() else ()
    return [path for path in there if path.suffix == ".png" and path.stem.isdigit()]
