"""Of what kinds the fields of a checkpoint's `meta` have to be. Imports nothing of ours."""

from typing import Any

# Of those that are read, where they are there: a type, [that of each], or fields that all are.
_SOURCE = {"files": [{"file": str, "sha256": str}], "kind": str, "weights": str}
_SOURCE |= {"tensors": int, "converted": int, "left_out": dict}
_CHANGES = {"counts": dict, "changed": dict}
_FIELDS = {
    "kind": str,
    "architecture": dict,
    "step": int,
    "items": [str],
    "flow": dict,
    "latents": dict,
    "class_names": [str],
    "config": dict,
    "batch_size": int,
    "data_shift": int,
    "history": [{"step": int, "key": str}],
    "source": _SOURCE,
    "published": {"weights": str},
    "init": {"weights": str, "step": int, "path": str, "fingerprint": str, "changes": _CHANGES},
}


_OR_NULL = {"latents", "init"}  # which nobody knows, or there is none


def wrong_field(meta: dict[str, Any]) -> str:
    """The first field of a checkpoint's meta that is not of its kind, in words; "" for none."""
    there = [name for name in _FIELDS if name in meta]
    there = [name for name in there if not (name in _OR_NULL and meta[name] is None)]
    return next(filter(None, (_unlike(meta[name], _FIELDS[name], name) for name in there)), "")


def _unlike(value: Any, kind: Any, name: str) -> str:
    """What is not of its kind, in words; "" where all is."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"'{name}' is {value!r:.40}; expected a list"
        return next((wrong for v in value if (wrong := _unlike(v, kind[0], name))), "")
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"'{name}' is {value!r:.40}; expected fields"
        if lacks := kind.keys() - value.keys():
            return f"'{name}' is {value!r:.40} and lacks {', '.join(sorted(lacks))}"
        parts = (_unlike(value[key], inner, f"{name}.{key}") for key, inner in kind.items())
        return next(filter(None, parts), "")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"'{name}' is {value!r:.40}; expected {kind.__name__}"
    return ""
