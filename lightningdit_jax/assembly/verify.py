"""--mode=verify: whether what lies in a workdir or a folder of latents is what was written."""

import pathlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from etils import epath

from lightningdit_jax.assembly.teacher import FEATURES
from lightningdit_jax.atomic_file import field_of, read_json
from lightningdit_jax.checkpoint import CHECKPOINTS, SNAPSHOTS, absolute, read_arrays, read_meta
from lightningdit_jax.checkpoint_choice import defect
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError, array_metadata, digests_of
from lightningdit_jax.config import Config
from lightningdit_jax.data.latents import STATS_NAME, LatentShards, load_stats
from lightningdit_jax.data.latents_digests import is_as_written, read_digests
from lightningdit_jax.data.latents_record import read_record
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.data.sample_parts import SamplePart, find_parts
from lightningdit_jax.data.shard_header import check_header, read_header
from lightningdit_jax.errors import counted, listed
from lightningdit_jax.hub import is_address
from lightningdit_jax.hub_folder import fetch_folder, is_hub_folder
from lightningdit_jax.metrics_log import RECORDS, STARTS, read_log
from lightningdit_jax.parallel.multihost import print_once

# What is looked at, and a check that says what it found, or raises ValueError or OSError.
Check = tuple[epath.Path, Callable[[], str]]
NOT_VERIFIED = "without digests, not verified"


def verify(config: Config, workdir: str, say: Callable[[str], None] = print_once) -> int:
    """Looks at everything in a workdir or a checkpoint, and in config.data.path, latents.

    A checkpoint may be a model of the hub, its folder or its address. Either may be empty. Each
    thing has a line: whole, or what is damaged about it; nothing is changed. Returns the number of
    damaged ones. Raises ValueError where there is nothing to look at, or with several processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=verify is of one process; start it alone")
    if is_address(workdir):
        workdir = str(fetch_folder(workdir))
    checks: list[Check] = []
    for path, find in ((workdir, _of_workdir), (config.data.path, _of_latents)):
        if path:
            found = list(find(epath.Path(path)))
            if not found:
                raise ValueError(f"{path} holds nothing to verify; expected a workdir or latents")
            checks += found
    if not checks:
        raise ValueError("give --workdir=WORKDIR, or --config.data.path=LATENTS, or both")
    counts = {"whole": 0, "damaged": 0, "not verified": 0}
    for path, check in checks:
        try:
            said = check()
            kind = "not verified" if NOT_VERIFIED in said else "whole"
            say(f"{path}: {said}")
        except (ValueError, OSError) as error:
            kind = "damaged"
            why = error.reason if isinstance(error, DamagedCheckpointError) else error
            say(f"{path}: DAMAGED: {why}")
        counts[kind] += 1
    say(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return counts["damaged"]


def _of_workdir(folder: epath.Path) -> Iterator[Check]:
    if (folder / "meta").is_dir() or is_hub_folder(folder):
        yield folder, partial(_checkpoint, folder)
        return
    for kept in (CHECKPOINTS, "best", SNAPSHOTS):
        steps = [p for p in _listed(folder / kept) if p.name.isdigit() and p.is_dir()]
        for path in sorted(steps, key=lambda path: int(path.name)):
            yield path, partial(_checkpoint, path)
    for name in ("config.json", "evaluation.json"):
        if (path := folder / name).exists():
            yield path, partial(_json, path)
    if (path := folder / "sweep.json").exists():
        yield path, partial(_json, path, list)
    for name in (RECORDS, STARTS):
        if (path := folder / name).exists():
            yield path, partial(_log, path)
    for part in find_parts(folder / "samples.parts"):
        yield part.path, partial(_part, part)
    if (path := folder / "samples.json").exists():
        yield path, partial(_samples, path)
    if (path := folder / "latents").is_dir():
        yield from _of_latents(path)


def _of_latents(folder: epath.Path) -> Iterator[Check]:
    shards = [p for p in _listed(folder) if p.name.endswith(".safetensors") and p.name[0] != "."]
    if not shards:
        return
    yield folder, partial(_folder, folder)
    for path in sorted(shards):
        yield path, partial(_latents_file, path)
    if (features := folder / FEATURES).is_dir():
        yield from _of_latents(features)


def _checkpoint(path: epath.Path) -> str:
    path = absolute(path)
    if lacks := defect(path):
        raise ValueError(lacks)
    digests = digests_of(path)
    meta = read_meta(path)
    if digests is None:
        return f"complete, but {NOT_VERIFIED}: an older version wrote it"
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host)

    size = count = 0
    for item in digests.arrays:  # one after the other, since all may not fit
        arrays = read_arrays(path, item, jax.tree.map(abstract, array_metadata(path, item)))
        if item == "step" and path.name.isdigit() and int(arrays["step"]) != int(path.name):
            raise ValueError(f"it holds the state of step {int(arrays['step']):,}")
        leaves = jax.tree.leaves(arrays)
        size, count = size + sum(leaf.nbytes for leaf in leaves), count + len(leaves)
    step = f"step {meta['step']:,}, " if "step" in meta else ""
    return f"whole ({step}{counted(count, 'array')} of {size / 2**20:,.1f} MiB)"


def _json(path: epath.Path, kind: type = dict) -> str:
    read_json(path, kind)
    return "whole (it is JSON)"


def _log(path: epath.Path) -> str:
    records, damaged = read_log(path)
    if damaged:
        numbers = listed([str(number) for number in damaged])
        raise ValueError(f"lines that are no records: {numbers}; a run that goes on drops them")
    return f"whole ({counted(len(records), 'record')})"


def _part(part: SamplePart) -> str:
    part.read(verify=True)
    whole = f"whole ({counted(part.count, 'sample')})"
    return whole if part.digest else f"readable, but {NOT_VERIFIED}"


def _samples(path: epath.Path) -> str:
    checksum = field_of(path, read_json(path), "runtime", dict, {}).get("arr_0_crc32")
    file = path.with_suffix(".npz")
    if checksum is None or not file.exists():
        return "whole (it is JSON)"
    images = NpzImages(file)
    if images.checksum() != checksum:
        raise ValueError(f"{file} holds other samples than it describes")
    for _ in images.batches(256, 0, len(images)):  # to the end, where the checksum is compared
        pass
    return f"whole, and so is {file.name} ({counted(len(images), 'sample')})"


def _folder(folder: epath.Path) -> str:
    """What is known before the bytes of latents are read, as a training asks it."""
    read_record(folder)
    shards = LatentShards(folder)
    return "; ".join([counted(len(shards), "latent"), *shards.notes])


def _latents_file(path: epath.Path) -> str:
    if path.name == STATS_NAME:
        load_stats(path.parent)
    else:
        local = pathlib.Path(path)
        check_header(local, read_header(local))
    match is_as_written(path, read_digests(path.parent)):
        case None:
            return f"complete, but {NOT_VERIFIED}"
        case False:
            raise ValueError("it is not as it was written (SHA-256)")
    return f"whole ({path.stat().length / 2**20:,.1f} MiB)"


def _listed(folder: epath.Path) -> list[epath.Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
