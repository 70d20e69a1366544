"""extraction.json: what the latents of a folder were made with, kept beside them."""

import hashlib
import json
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json

RECORD = "extraction.json"
# These change neither latents nor their order.
_INDIFFERENT = {"shard_size", "processes", "class_names", "tokenizer_path"}


def read_record(folder: epath.Path) -> dict[str, Any] | None:
    """The record of a folder of latents; None where there is none, as in published folders.

    Raises ValueError naming a file that is no record.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    names = record.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: class_names are {names!r:.50}; expected names")
    for name in ("tokenizer", "tokenizer_path"):
        field_of(path, record, name, str, "")
    field_of(path, field_of(path, record, "images", dict, {}), "count", int, 0)
    return record


def class_names(record: dict[str, Any] | None) -> tuple[str, ...]:
    """Names of the classes by number, empty where the record does not know them."""
    return tuple((record or {}).get("class_names", ()))


def latents_fingerprint(record: dict[str, Any] | None, labels: np.ndarray) -> str:
    """16 hexadecimal digits of labels int64 [N] and of all in the record that makes latents so."""
    kept = {key: value for key, value in (record or {}).items() if key not in _INDIFFERENT}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    return digest.hexdigest()[:16]
