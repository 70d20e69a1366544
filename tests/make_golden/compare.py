"""Made against stored: the largest difference of each tensor, and the tolerance it is held to."""

import dataclasses
import json
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tests.make_golden.files import loads, read
from tests.make_golden.registry import Case

# Parts of a case's weights that have a tolerance under another name.
PARTS = {
    "final": "params",
    "grads_step0": "grads",
    "final_float64_run_subset": "final_params",
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one tensor: |made - stored| at its largest, and over its tolerance (up to 1 is within)."""

    name: str
    largest: float
    over_tolerance: float


def compare(case: Case, files: dict[str, Any]) -> list[Difference]:
    """Of every tensor that the case makes from the stored one; inputs are the stored ones.

    files: of Case.files. Raises ValueError where names, shapes or dtypes are not those that are
    stored and that index.json lists, FileNotFoundError where nothing is stored.
    """
    if case.file is not None and listing(files[case.file]) != case.entry.get("tensors"):
        made = json.dumps(listing(files[case.file]))
        raise ValueError(f'its entry in index.json should have "tensors": {made}')
    differences = []
    for file, content in files.items():
        if not (case.folder / file).is_file():
            raise FileNotFoundError(
                f"{case.folder / file} is not stored: write it with --output={case.folder} first"
            )
        made, stored = (dict(_leaves(value)) for value in _pair(content, case.folder / file))
        if made.keys() != stored.keys():
            extra, missing = made.keys() - stored.keys(), stored.keys() - made.keys()
            raise ValueError(f"{file}: makes {sorted(extra)}, but not {sorted(missing)} as stored")
        own = file == case.file
        for name in made:
            if own and name.startswith("in."):
                continue
            limits = _bounds(case.entry, file, name)
            where = name if own else f"{file} {name}".strip()
            differences.append(_difference(where, made[name], stored[name], *limits))
    return differences


def listing(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Name -> dtype and shape, as index.json has them: float32[2,3]."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}".replace(" ", "")
        for name, tensor in tensors.items()
    }


def _pair(made: Any, path: pathlib.Path) -> tuple[Any, Any]:
    """Made and stored, both as values, or both as bytes where they are equal or cannot be read."""
    if not isinstance(made, bytes):
        return made, read(path)
    stored = path.read_bytes()
    if made == stored:
        return made, stored
    # Torch's old format has addresses in it, and another version may write its own otherwise.
    try:
        return loads(made), loads(stored)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        return made, stored


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of what lies in dicts and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _bounds(entry: dict[str, Any], file: str, name: str) -> tuple[float, float]:
    """(atol, rtol) that index.json sets for a tensor of a case's file."""
    tolerance, weights = entry["tolerance"], entry.get("weights")
    if isinstance(weights, dict) and file in weights.values():
        part = next(part for part, of_part in weights.items() if of_part == file)
        tolerance = tolerance[PARTS.get(part, part)]
    rows = entry["config"].get("rows", [])
    atols = {f"out.{row['name']}": row["atol"] for row in rows if "atol" in row}
    return atols.get(name, tolerance["atol"]), tolerance["rtol"]


def _difference(name: str, made: Any, stored: Any, atol: float, rtol: float) -> Difference:
    """NaN equals NaN; what is no number must be equal."""
    if isinstance(stored, torch.Tensor):
        (here,), (there,) = (listing({name: value}).values() for value in (made, stored))
        if here != there:
            raise ValueError(f"{name} is {here}, stored is {there}")
    elif not isinstance(stored, float | int):
        apart = 0.0 if made == stored else np.inf
        return Difference(name, apart, apart)
    made, stored = (np.asarray(_float64(value)) for value in (made, stored))
    apart = np.abs(made - stored)
    apart = np.where((made == stored) | (np.isnan(made) & np.isnan(stored)), 0.0, apart)
    apart = np.where(np.isnan(apart), np.inf, apart)
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(apart == 0, 0.0, apart / (atol + rtol * np.abs(stored)))
    return Difference(name, _largest(apart), _largest(over))


def _float64(value: torch.Tensor | float) -> torch.Tensor:
    """NumPy has no bfloat16."""
    return torch.as_tensor(value).detach().double()


def _largest(values: np.ndarray) -> float:
    return float(values.max(initial=0.0))
