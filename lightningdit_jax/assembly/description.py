"""What a checkpoint says of itself, for people."""

from collections.abc import Mapping
from typing import Any

from lightningdit_jax.assembly.history import change_lines
from lightningdit_jax.averages import MAIN, WEIGHTS
from lightningdit_jax.checkpoint import architecture_fields
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.imagenet_names import NUM_CLASSES, imagenet_names
from lightningdit_jax.latent_scaling import LatentScaling


def class_names_of(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a model's classes by number, empty where its checkpoint's meta does not know.

    Weights of 1,000 classes that were converted are ImageNet's.
    """
    names, there = meta.get("class_names", ()), architecture_fields(meta)
    if not names and "source" in meta and there.get("num_classes") == NUM_CLASSES:
        return tuple(imagenet_names().values())
    return tuple(names)


def row(name: str, value: object) -> str:
    """A line of a table, for people."""
    return f"  {name:26s} {value}"


def meta_lines(meta: Mapping[str, Any], count: int) -> list[str]:
    """One thing a line: model, class names, scaling, source, origin, changes within the run.

    meta: as read_model_meta. count: of its parameters.
    """
    lines = [f"{meta['kind']}, {count:,} parameters, step {meta['step']:,}"]
    lines += [row(key, value) for key, value in meta["architecture"].items()]
    if names := class_names_of(meta):
        lines.append(class_line(names))
    if scaling := LatentScaling.from_meta(meta.get("latents")):
        lines.append(row("scaled latents", scaling))
    if published := meta.get("published"):
        lines.append(row("published", f"'{published['weights']}' of the checkpoint it was"))
    if source := meta.get("source"):
        lines += source_lines(source)
    if origin := meta.get("init"):
        lines += origin_lines(origin)
    return lines + change_lines(meta.get("history", []))


def source_lines(source: Mapping[str, Any]) -> list[str]:
    """What converted weights were converted from, as their checkpoint keeps it."""
    taken = f"{source['converted']} of {source['tensors']} tensors"
    which = {"ema": " (averages)", "model": " (raw weights)"}.get(str(source.get("which")), "")
    return [
        f"converted as {source['kind']} from",
        *(f"  {f['file']}  SHA-256 {f['sha256']}" for f in source["files"]),
        f"  {taken} of {source['weights'] or 'the file'}{which}",
        *(f"  left out: {n}, {reason}" for reason, n in source["left_out"].items()),
    ]


def origin_lines(origin: Mapping[str, Any]) -> list[str]:
    """Where the weights of a run began, as its checkpoints keep it, and where those began."""
    which = {MAIN: "averages", WEIGHTS: "weights"}[origin["weights"]]
    counts = origin["changes"]["counts"]
    lines = [
        f"began as step {origin['step']:,} of {origin['path']}",
        f"  {which} {origin['fingerprint']}: {', '.join(f'{n} {f}' for f, n in counts.items())}",
    ]
    lines += [f"  {name}  {how}" for name, how in origin["changes"]["changed"].items()]
    for file in origin.get("source", {}).get("files", ()):
        lines.append(f"  converted from {file['file']}  SHA-256 {file['sha256']}")
    return lines + (origin_lines(origin["init"]) if "init" in origin else [])
