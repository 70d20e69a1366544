"""What was changed in a run that went on, as its checkpoints keep it."""

from collections.abc import Mapping
from typing import Any

from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_jobs import jobs_of, readers, trains_both


def changes_since(meta: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changes {step, key, from, to} from a checkpoint's own config to another, as given.

    config: nested, as JSON gives it back. Keys that its training does not read do not count, nor
    what only new runs read (train.init and the like), nor keys younger than the checkpoint.
    """
    there, read = meta.get("config", {}), read_in_training(config)
    changes = []
    for key in key_types(Config):
        if key.startswith("train.init") or key not in read:
            continue
        section, _, name = key.rpartition(".")
        old, new = (values.get(section, {}) if section else values for values in (there, config))
        if name in old and old[name] != new[name]:
            changes.append({"step": meta["step"], "key": key, "from": old[name], "to": new[name]})
    return changes


def read_in_training(config: Mapping[str, Any]) -> set[str]:
    """The keys that the training of a config reads, with all that is done within it.

    config: nested, as JSON gives it back; it may be an older one.
    """
    train, weight = config.get("train", {}), config.get("repae", {}).get("weight", 0.0)
    evaluates, pictures = (train.get(f"{w}_every_steps", 0) > 0 for w in ("evaluate", "picture"))
    both = trains_both({"kind": config["kind"], "repae.weight": weight}.__getitem__)
    jobs = set(jobs_of("train", "train", config["kind"], evaluates, pictures, both=both))
    return {key for key in key_types(Config) if jobs & set(readers(key))}


def change_lines(history: list[dict[str, Any]]) -> list[str]:
    """A line for each change, for people."""
    return [f"since step {c['step']:,}: {c['key']} {c['from']} -> {c['to']}" for c in history]
