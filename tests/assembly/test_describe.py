"""--mode=describe: what is said is what was written, and no array is read for it."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from lightningdit_jax import checkpoint_reading
from lightningdit_jax.assembly.describe import describe
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.models.lightningdit import LightningDiT
from tests import tiny

SCALING = {"mean": [0.5] * 7 + [-1.5], "std": [2.0] * 7 + [0.25], "multiplier": 1.0}
SOURCE = {
    "kind": "lightningdit",
    "files": [{"file": "0080000.pt", "sha256": "ab" * 32}],
    "weights": "ema",
    "which": "ema",
    "tensors": 40,
    "converted": 38,
    "left_out": {"no parameter": 2},
}
INIT = {
    "weights": "ema",
    "step": 70,
    "path": "runs/before",
    "fingerprint": "0123456789abcdef",
    "changes": {"counts": {"taken": 20}, "changed": {"y_embedder": "fresh"}},
}
HISTORY = [{"step": 5, "key": "train.num_steps", "from": 5, "to": 12}]
NAMES = [f"kind {i}" for i in range(10)]


@pytest.fixture(scope="module")
def generator():
    """(architecture, parameters) of a tiny generator."""
    config = tiny.dit_config()
    model = LightningDiT(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    return config, jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def write(path, generator, *, averages=(), **meta):
    config, params = generator
    arrays = {"params": params} | {name: params for name in averages}
    meta = {
        "format_version": 1,
        "kind": "lightningdit",
        "architecture": dataclasses.asdict(config),
        "step": 12,
        **meta,
    }
    save_checkpoint(str(path), arrays, {"meta": json.loads(json.dumps(meta))})
    return path


@pytest.fixture(autouse=True)
def no_arrays(monkeypatch):
    def read(*args):
        raise AssertionError("arrays were read")

    monkeypatch.setattr(checkpoint_reading, "_read", read)
    monkeypatch.setattr("sys.argv", ["lightningdit"])


def test_a_checkpoint_is_described(tmp_path, generator):
    path = write(
        tmp_path / "c",
        generator,
        averages=("ema", "ema_0.9"),
        flow={"path": "linear", "prediction": "velocity"},
        latents=SCALING,
        source=SOURCE,
        init=INIT,
        history=HISTORY,
        class_names=NAMES,
    )
    title, first, *lines = describe(str(path))
    files = [p for p in path.rglob("*") if p.is_file()]
    kib = sum(p.stat().st_size for p in files) / 1024
    assert title == f"checkpoint {path}, {kib:,.1f} KiB"
    count = sum(leaf.size for leaf in jax.tree.leaves(generator[1]))
    assert first == f"lightningdit, {count:,} parameters, step 12"
    text = "\n".join(lines)
    for said in (
        r"  hidden_size +16\n",
        r"10 classes: kind 0, kind 1",
        r"  path, prediction +linear, velocity\n",
        r"  statistics +mean -1.5 to 0.5, std 0.25 to 2 in 8 channels\n",
        r"  averages +ema, ema_0.9\n",
        r"  training goes on from it +no\n",
        rf"  0080000.pt  SHA-256 {'ab' * 32}\n",
        r"began as step 70 of runs/before\n",
        r"since step 5: train.num_steps 5 -> 12\n",
    ):
        assert re.search(said, text), said
    assert lines[-1].startswith(
        "next: lightningdit --config=dit_xl --workdir=WORKDIR --mode=sample"
    )
    assert f"--config.sample.checkpoint={path}" in lines[-1]


def test_a_workdir_is_its_newest_checkpoint(tmp_path, generator):
    config = tiny.config("digits_dit", data__path="LATENTS").to_dict()
    for step in (6, 12):
        path = tmp_path / "checkpoints" / str(step)
        write(path, generator, step=step, config=config, batch_size=8, seed=3)
    for step in (4, 8, 12):
        write(tmp_path / "snapshots" / str(step), generator, step=step)
    write_json(epath.Path(tmp_path / "config.json"), config)
    record = {"step": 12, "loss": 0.25, "grad_norm": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**record, "step": 6}) + "\n")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    drawn = {"num_samples": 40, "solver": "euler", "labels": "random", "seed": 3}
    write_json(epath.Path(tmp_path / "samples.json"), drawn)
    write_json(epath.Path(tmp_path / "evaluation.json"), {"fid": 2.114, "of": {"a": 1}})
    text = "\n".join(describe(str(tmp_path)))
    for said in (
        r"\Aworkdir .*(MiB|KiB)\n",
        r"  checkpoints +6, 12\n",
        r"  snapshots +3, of steps 4 to 12\n",
        r"  metrics.jsonl +2 records\n",
        r"  last record +step 12, loss 0.25, grad_norm 2\n",
        r"lightningdit, .*, step 12\n",
        r"  steps +12 of 6\n",
        r"  data +LATENTS\n",
        r"  samples.json +num_samples 40, solver euler, seed 3\n",
        r"  evaluation.json +fid 2.114\Z",
        rf"\nnext: lightningdit --config={tmp_path} --mode=sample\n",
    ):
        assert re.search(said, text), said


def test_latents_are_described(tmp_path):
    folder = tiny.write_latents(tmp_path)
    record = {"tokenizer": "0123456789abcdef", "seed": 7, "class_names": NAMES, "resolution": 32}
    record |= {"images": {"source": "folder", "count": 24}, "stored_dtype": "float32"}
    write_json(epath.Path(folder / "extraction.json"), record)
    lines = describe(str(folder))
    stats = tiny.load_scaling(folder)
    text = "\n".join(lines)
    for said in (
        r"\n24 latents of 4x4, 8 channels\n",
        r"  labels +0 to 9\n",
        r"10 classes: kind 0",
        rf"  statistics +mean {min(stats.mean):.4g} to {max(stats.mean):.4g}, ",
        r"  tokenizer +0123456789abcdef\n",
        r"  images +source folder, count 24\n",
        r"  resolution +32\n",
    ):
        assert re.search(said, text), said
    assert lines[-1].startswith(
        "next: lightningdit --config=digits_dit --workdir=WORKDIR --config.data"
    )
    (folder / "latents_stats.safetensors").unlink()
    (folder / "extraction.rank00.json").unlink()
    assert any(re.search("statistics +none", line) for line in describe(str(folder)))


def test_a_run_that_has_only_begun(tmp_path):
    write_json(epath.Path(tmp_path / "config.json"), {})
    assert describe(str(tmp_path))[1:] == ["no checkpoint yet, config.json alone"]
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir(parents=True)
    assert describe(str(tmp_path))[1:] == ["no checkpoint yet, config.json alone"]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("", ValueError, "give --workdir=PATH: a checkpoint, a workdir, or a folder of latents"),
        ("none", FileNotFoundError, "--workdir=none: there is no such folder"),
        (".", ValueError, "holds nothing to describe; expected a checkpoint"),
    ],
)
def test_nothing_to_describe_is_refused(tmp_path, monkeypatch, path, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        describe(path)
