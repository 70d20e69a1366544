"""--mode=describe: what a checkpoint, a workdir or a folder of latents is. Reads no arrays."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from lightningdit_jax.assembly.companion import companion_of
from lightningdit_jax.assembly.description import meta_lines, row
from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.next_command import with_latents, with_weights
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.assembly.workdir import CONFIG_FILE
from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.averages import WEIGHTS, is_average
from lightningdit_jax.checkpoint import CHECKPOINTS, SNAPSHOTS, find_checkpoint, item_names
from lightningdit_jax.checkpoint_choice import finalized_steps
from lightningdit_jax.checkpoint_reading import array_metadata
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.latents import LatentShards, load_stats
from lightningdit_jax.data.latents_record import read_record
from lightningdit_jax.errors import counted
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.hub import is_address
from lightningdit_jax.hub_folder import is_hub_folder
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.metrics_log import RECORDS, read_log
from lightningdit_jax.storage_errors import check_absent

_DRAWN = ("num_samples", "solver", "num_steps", "cfg_scale", "seed")  # of samples.json
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe(path: str) -> list[str]:
    """Lines for people, the last ones commands that use it.

    path: a checkpoint, a workdir or a folder of latents, local or gs://; a model of the hub, its
    folder or hf://. Raises FileNotFoundError and ValueError for anything else, and for what is
    damaged.
    """
    if not path:
        raise ValueError("give --workdir=PATH: a checkpoint, a workdir, or a folder of latents")
    if is_address(path):
        return [path, *_checkpoint(path)]
    folder = epath.Path(path)
    if not folder.is_dir():
        check_absent(folder)
        what = "it is a file, no folder" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(f"--workdir={path}: {what}")
    if (folder / "meta").is_dir() or is_hub_folder(folder):
        return [_title("checkpoint", folder), *_checkpoint(path)]
    if any(_is_shard(file) for file in folder.iterdir()):
        return [_title("latents", folder), *_latents(folder)]
    parts = [*_run(folder), *_results(folder)]
    if (folder / "latents").is_dir():
        parts += [_title("latents", folder / "latents"), *_latents(folder / "latents")]
    if not parts:
        raise ValueError(
            f"--workdir={path} holds nothing to describe; expected a checkpoint (with a folder "
            "'meta'), a workdir (with 'checkpoints'), or a folder of latents (with *.safetensors)"
        )
    return [_title("workdir", folder), *parts]


def _title(what: str, folder: epath.Path) -> str:
    return f"{what} {folder}, {_size(_bytes(folder))}"


def _checkpoint(path: str) -> list[str]:
    """Of a checkpoint, or of the newest complete one of a workdir."""
    checkpoint = find_checkpoint(path)
    meta, items = model_meta(checkpoint), item_names(checkpoint)
    averages = sorted(filter(is_average, items))
    held = averages[0] if averages and WEIGHTS not in items else WEIGHTS  # a snapshot has none
    leaves = jax.tree.leaves(array_metadata(checkpoint, held))
    lines = meta_lines(meta, sum(math.prod(leaf.shape) for leaf in leaves))
    if "flow" in meta:
        flow = Flow.from_meta(meta)
        lines.append(row("path, prediction", f"{flow.path}, {flow.prediction}"))
    scaling = LatentScaling.from_meta(meta.get("latents"))
    if scaling is not None:
        lines += _statistics(scaling)
    elif meta["kind"] == "lightningdit":
        lines.append(row("scaled latents", "not known; asked for when it samples"))
    lines.append(row("averages", ", ".join(averages) or "none"))
    if beside := companion_of(checkpoint, meta, Role.TOKENIZER):
        lines.append(row("trained beside it", beside))
    lines.append(row("training goes on from it", "yes" if "opt_state" in items else "no"))
    config = meta.get("config", {})
    if config:
        lines += _recipe(meta, config)
    if held != WEIGHTS:
        return lines
    tokenizer = path if beside else _said(config, "sample", "tokenizer") or ""
    latents = _said(config, "data", "path") or ""
    return lines + _next(with_weights(path, meta["kind"], str(tokenizer), str(latents)))


def _recipe(meta: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What a run's own config says of how it is trained."""
    steps, rate = _said(config, "train", "num_steps"), _said(config, "optimizer", "learning_rate")
    keys = {
        "steps": f"{meta['step']:,} of {steps:,}" if isinstance(steps, int) else None,
        "batch size": meta.get("batch_size"),
        "learning rate": rate,
        "seed": meta.get("seed"),
        "data": _said(config, "data", "path") or _said(config, "data", "source"),
    }
    return [row(name, value) for name, value in keys.items() if value is not None]


def _said(config: Mapping[str, Any], section: str, name: str) -> Any:
    """A value of a config as a checkpoint keeps it, which may be an older one; None without it."""
    values = config.get(section)
    return values.get(name) if isinstance(values, Mapping) else None


def _run(folder: epath.Path) -> list[str]:
    """Of a training's workdir; nothing where there is none."""
    kept = {name: finalized_steps(folder / name) for name in (CHECKPOINTS, "best")}
    if not kept[CHECKPOINTS]:
        begun = (folder / CONFIG_FILE).exists()
        return [f"no checkpoint yet, {CONFIG_FILE} alone"] if begun else []
    lines = [
        row(name, ", ".join(f"{int(path.name):,}" for path in steps))
        for name, steps in kept.items()
        if steps
    ]
    if snapshots := [int(path.name) for path in finalized_steps(folder / SNAPSHOTS)]:
        said = f"{len(snapshots):,}, of steps {snapshots[0]:,} to {snapshots[-1]:,}"
        lines.append(row(SNAPSHOTS, said))
    if (path := folder / RECORDS).exists():
        records, _ = read_log(path)
        lines.append(row(RECORDS, counted(len(records), "record")))
        lines += [row("last record", _numbers(json.loads(records[-1][1])))] if records else []
    return [*lines, *_checkpoint(str(folder))]


def _results(folder: epath.Path) -> list[str]:
    """What later modes wrote into a workdir."""
    lines = []
    if (path := folder / "samples.json").exists():
        drawn = read_json(path)
        said = [f"{key} {drawn[key]}" for key in _DRAWN if key in drawn]
        lines.append(row(path.name, ", ".join(said)))
    if (path := folder / "evaluation.json").exists():
        lines.append(row(path.name, _numbers(read_json(path))))
    return lines


def _numbers(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in record.items() if isinstance(v, int | float))


def _latents(folder: epath.Path) -> list[str]:
    """Of a folder of latents or of features, from headers, labels, statistics and record."""
    shards, record = LatentShards(folder), read_record(folder)
    height, width, channels = shards.shape
    low, high = int(shards.labels.min()), int(shards.labels.max())
    model = (record or {}).get("foundation", {})
    what = "features" if model else "latents"
    lines = [f"{len(shards):,} {what} of {height}x{width}, {channels} channels", *shards.notes]
    lines.append(row("labels", f"{low} to {high}"))
    if shards.class_names:
        lines.append(class_line(shards.class_names))
    try:
        lines += [] if model else _statistics(load_stats(folder))
    except FileNotFoundError:
        lines.append(row("statistics", "none; --mode=extract writes them"))
    if record is not None:
        images = record.get("images", {})
        made = {
            "tokenizer": record.get("tokenizer"),
            "made by": " ".join(model.values()) or None,
            "images": ", ".join(f"{k} {v}" for k, v in images.items()),
            "resolution": record.get("resolution"),
            "seed": record.get("seed"),
            "stored as": record.get("stored_dtype"),
        }
        lines += [row(name, value) for name, value in made.items() if value is not None]
    return lines if model else lines + _next(with_latents(shards))


def _statistics(scaling: LatentScaling) -> list[str]:
    """The range of means and deviations over channels; nothing where latents are multiplied."""
    if scaling.mean is None or scaling.std is None:
        return []
    ranges = [f"{min(v):.4g} to {max(v):.4g}" for v in (scaling.mean, scaling.std)]
    channels = f"{len(scaling.mean)} channels"
    return [row("statistics", f"mean {ranges[0]}, std {ranges[1]} in {channels}")]


def _next(commands: list[str]) -> list[str]:
    return [f"next: {command}" for command in commands]


def _is_shard(file: epath.Path) -> bool:
    return file.name.endswith(".safetensors") and not file.name.startswith(".")


def _bytes(folder: epath.Path) -> int:
    """Size of all files under a folder."""
    children = list(folder.iterdir())
    return sum(_bytes(c) if c.is_dir() else int(c.stat().length) for c in children)


def _size(count: float) -> str:
    power = 0
    while count >= 1024 and power < len(_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.1f} {_UNITS[power]}" if power else f"{count:,.0f} B"
