"""Checkpoints: our JSON, digests, and what Orbax writes beside the arrays."""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from lightningdit_jax.assembly.loading import Loaded, model_meta
from lightningdit_jax.assembly.registry import architecture
from lightningdit_jax.assembly.workdir import remembered
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    item_names,
    read_arrays,
    save_checkpoint,
)
from lightningdit_jax.checkpoint_choice import defect
from lightningdit_jax.checkpoint_reading import array_metadata, read_json
from lightningdit_jax.verification import verifying
from tests import tiny
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind
from tests.fuzz.torch_kinds import equal

TREES = {
    "params": {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "v": np.ones(3, np.float32)},
    "opt_state": {"count": np.int32(7), "mu": np.linspace(-1, 1, 12, dtype=np.float32)},
}
LOOP = {"data": {"next_index": 5}, "window": [], "nonfinite": 0}


def meta() -> dict[str, Any]:
    return {
        "format_version": 1,
        "kind": "lightningdit",
        "architecture": dataclasses.asdict(tiny.dit_config()),
        "step": 5,
        "flow": {"path": "linear", "prediction": "velocity"},
        "latents": {"mean": [0.0] * 8, "std": [1.0] * 8, "multiplier": 1.0},
        "class_names": ["cat", "dog"],
        "history": [{"step": 2, "key": "seed", "from": 0, "to": 1}],
        "source": {
            "files": [{"file": "x.pt", "sha256": "0" * 64}],
            "kind": "lightningdit",
            "weights": "ema",
            "which": "ema",
            "tensors": 4,
            "converted": 3,
            "left_out": {"why": 1},
        },
    }


def _prepare(folder: pathlib.Path) -> None:
    save_checkpoint(str(folder / "5"), TREES, {"meta": meta(), "loop": LOOP})


@functools.cache
def _files() -> dict[str, bytes]:
    """Made in a process of its own: threads that write do not live on in a fork."""
    folder = tempfile.mkdtemp()
    try:
        process = multiprocessing.get_context("fork").Process(
            target=_prepare, args=(pathlib.Path(folder),)
        )
        process.start()
        process.join()
        paths = (p for p in pathlib.Path(folder).rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(paths)}
    finally:
        shutil.rmtree(folder)


def _inputs(seed: int, count: int) -> Iterator[Input]:
    files = _files()
    for number in range(count):
        rng = random.Random(f"checkpoints {seed} {number}")
        yield Input(*_input(rng, files))


def _input(rng: random.Random, files: dict[str, bytes]) -> tuple[dict[str, bytes | None], bool]:
    """Changed files, and whether what is read is compared with digests."""
    name = rng.choice(list(files))
    ours = ("5/meta/metadata", "5/loop/metadata", "5/digests/process_0.json")
    if rng.random() < 0.3:
        name = rng.choice(ours)
    verified = rng.random() < 0.6
    content: bytes | None = files[name]
    if rng.random() < 0.3:  # an older version wrote no digests
        return {ours[0]: mutations.json_text(meta(), rng), ours[2]: None}, rng.random() < 0.5
    if name == ours[2] and rng.random() < 0.7:  # sealed again, so that what it holds is looked at
        sealed = mutations.of_json(json.loads(files[name])["content"], rng)
        content = json.dumps({"content": sealed, "sha256": _digest(sealed)}).encode()
    elif files[name][:1] in b"{[" and rng.random() < 0.6:
        content = mutations.json_text(json.loads(files[name]), rng)
    else:
        content = rng.choice((mutations.of_bytes(files[name], rng),) * 8 + (None, b""))
    return {name: content}, verified


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: pathlib.Path, given: Input) -> Any:
    with verifying(given.given is not False):
        checkpoint = find_checkpoint(str(folder / "5"))
        if lacks := defect(checkpoint):
            raise AssertionError(lacks)
        said = model_meta(checkpoint)
        loop = read_json(checkpoint, "loop")
        items = item_names(checkpoint)
        arrays = {}
        host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for item, tree in TREES.items():
            array_metadata(checkpoint, item)
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host), tree
            )
            arrays[item] = jax.tree.map(np.asarray, read_arrays(checkpoint, item, abstract))
        config = architecture(said["kind"], architecture_fields(said))
        loaded = Loaded(None, arrays["params"], said)
        described = (config, loaded.description(), loaded.flow(), loaded.scaling())
        return arrays, loop, items, described, remembered(said)


def _as_saved(folder: pathlib.Path, given: Input, read: Any) -> str:
    """With digests nothing is read but what was saved."""
    if given.given is False:
        return ""
    arrays, loop, *_ = read
    same = jax.tree.map(equal, arrays, jax.tree.map(np.asarray, TREES))
    if not all(jax.tree.leaves(same)):
        return "other arrays than were saved"
    return "" if loop == LOOP else "another loop than was saved"


KINDS = (Kind("checkpoints", _prepare, _inputs, _read, _as_saved, is_threaded=True),)
