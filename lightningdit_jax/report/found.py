"""What a workdir holds that a report shows."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from lightningdit_jax.assembly.workdir import CONFIG_FILE
from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.checkpoint import read_meta
from lightningdit_jax.checkpoint_choice import finalized_steps, newest_complete
from lightningdit_jax.metrics_log import RECORDS, STARTS, read_log

EVALUATION_FILE = "evaluation.json"
SINGLE = ("samples.png", "reconstructions.png")  # that sampling and evaluation leave


@dataclasses.dataclass(frozen=True)
class Found:
    """Of a workdir; what is not there is empty.

    records: numbers alone, with their step, in the order of the file. config: as config.json has
    it. meta: of the newest whole checkpoint, and checkpoints the steps of all. starts: of
    starts.jsonl. evaluation: of evaluation.json. pictures: files of pictures/ by step; single:
    other pictures. notes: what is damaged and was left out.
    """

    records: list[dict[str, float]]
    config: dict[str, Any]
    meta: dict[str, Any]
    checkpoints: list[int]
    best: list[int]
    starts: list[dict[str, Any]]
    evaluation: dict[str, Any]
    pictures: dict[int, epath.Path]
    single: list[epath.Path]
    notes: list[str]


def find(workdir: str) -> Found:
    """Reads a workdir, local or gs://. Raises ValueError where it holds no run."""
    folder, notes = epath.Path(workdir), list[str]()

    def tried(name: str, read: Callable[[epath.Path], Any]) -> Any:
        path = folder / name
        try:
            return read(path) if path.exists() else {}
        except (ValueError, OSError) as error:
            notes.append(f"left out: {error}")
            return {}

    def log(name: str) -> list[dict[str, Any]]:
        if not (folder / name).exists():
            return []
        lines, damaged = read_log(folder / name)
        if damaged:
            notes.append(f"left out: {len(damaged)} damaged lines of {name}")
        return [json.loads(line) for _, line in lines]

    found = Found(
        records=[numbers for record in log(RECORDS) if "step" in (numbers := _numbers(record))],
        config=tried(CONFIG_FILE, read_json),
        meta=tried("checkpoints", _newest_meta),
        checkpoints=tried("checkpoints", _steps) or [],
        best=tried("best", _steps) or [],
        starts=log(STARTS),
        evaluation=tried(EVALUATION_FILE, read_json),
        pictures=tried("pictures", _pictures),
        single=[folder / name for name in SINGLE if (folder / name).exists()],
        notes=notes,
    )
    if not (found.records or found.config or found.meta):
        raise ValueError(
            f"{workdir} holds no run: expected {RECORDS}, {CONFIG_FILE} or checkpoints, which "
            "training writes"
        )
    return found


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """What is a finite number of a record, which also an edited file may hold."""
    numbers = {name: v for name, v in record.items() if type(v) in (int, float)}
    return {n: v for n, v in numbers.items() if abs(v) < 2**1000 and math.isfinite(v)}


def _steps(folder: epath.Path) -> list[int]:
    return [int(path.name) for path in finalized_steps(folder)]


def _newest_meta(folder: epath.Path) -> dict[str, Any]:
    newest, _ = newest_complete(folder)
    return read_meta(newest) if newest else {}


def _pictures(folder: epath.Path) -> dict[int, epath.Path]:
    files = [path for path in folder.iterdir() if path.suffix == ".png" and path.stem.isdigit()]
    return {int(path.stem): path for path in sorted(files, key=lambda path: int(path.stem))}
