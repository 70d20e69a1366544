"""What ends with the same bits, and how far apart the rest is.

    python -m benchmarks.determinism

Runs main.py on the CPU, a small generator on random latents for six steps, once as it is and then
once for each row of the table: with another number of devices, another batch in parts, another
precision. Then it draws samples of the first in as many ways. --save=FILE keeps the first run's
weights, and --against=FILE compares with those that another environment has kept.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats, write_shard
from lightningdit_jax.tree_paths import named_leaves

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 6
Settings = Mapping[str, Any]
BASE: Settings = {
    "model.depth": 2,
    "train.num_steps": STEPS,
    "train.batch_size": 16,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 3,
    "optimizer.warmup_steps": 0,
    "train.accumulate_steps": 1,
    "compute.remat": "none",
}
# What is changed, the settings, the devices.
TRAINING: list[tuple[str, Settings, int]] = [
    ("the same again", {}, 1),
    ("reading by 1 thread instead of 2", {"data.num_threads": 1}, 1),
    ("reading in 2 worker processes", {"data.num_workers": 2}, 1),
    ("logging and checkpoints at other steps", {"train.log_every_steps": 3}, 1),
    ("all blocks in one turn of the loop", {"compute.scan_unroll": 2}, 1),
    ("activations computed again", {"compute.remat": "block"}, 1),
    ("the batch in 2 parts", {"train.accumulate_steps": 2}, 1),
    ("8 devices, images cut", {"mesh.data": 8}, 8),
    ("8 devices, weights cut (fsdp)", {"mesh.data": 1, "mesh.fsdp": 8}, 8),
    ("8 devices, heads cut (tensor)", {"mesh.data": 4, "mesh.tensor": 2}, 8),
    ("bfloat16 instead of float32", {"compute.dtype": "bfloat16"}, 1),
]
SAMPLING: list[tuple[str, Settings, int]] = [
    ("the same again", {}, 1),
    ("batches of 7 instead of 24", {"sample.batch_size": 7}, 1),
    ("decoded 5 at a time instead of 24", {"sample.decode_batch_size": 5}, 1),
    ("8 devices", {}, 8),
    ("bfloat16 instead of float32", {"compute.dtype": "bfloat16"}, 1),
]


def main() -> None:
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", help="file (.npz) for the weights of the first run")
    parser.add_argument("--against", help="such a file of another environment")
    parser.add_argument("--output", default="outputs/benchmarks/determinism.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        latents = _latents(folder / "latents")
        rows = {"training": _training(folder, latents, options)}
        rows["sampling"] = _sampling(folder)
    for kind, found in rows.items():
        print(f"\n| {kind} | |\n|---|---|")
        for row in found:
            print(f"| {row['changed']} | {_shown(row['distance'])} |")
    write_json(options.output, {"jax": jax.__version__, **rows})


def _training(
    folder: pathlib.Path, latents: pathlib.Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Distance of the weights after the last step, over their norm."""

    def train(name: str, settings: Settings, devices: int) -> dict[str, np.ndarray]:
        settings = {**BASE, "data.path": latents, **settings}
        _run("digits_dit", folder / name, "train", settings, devices)
        return _weights(folder / name)

    first = train("first", {}, 1)
    found = []
    for index, (changed, settings, devices) in enumerate(TRAINING):
        found.append(_row(changed, train(str(index), settings, devices), first))
    train("ended", {"train.num_steps": STEPS // 2}, 1)
    found.insert(1, _row("ended halfway and started again", train("ended", {}, 1), first))
    if options.save:
        np.savez(options.save, **first)
    if options.against:
        with np.load(options.against) as other:
            found.append(_row(f"the environment of {options.against}", dict(other), first))
    return found


def _sampling(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Mean distance of the pixels, over 255."""
    tokenizer = {
        "train.num_steps": 1,
        "train.batch_size": 8,
        "data.split": "test",
        "tokenizer.ch_mult": "(1, 1)",
        "vae_loss.disc_weight": 0.0,
        "vae_loss.alignment": "none",
    }
    _run("digits_vavae", folder / "tokenizer", "train", tokenizer, 1)

    def draw(name: str, settings: Settings, devices: int) -> dict[str, np.ndarray]:
        settings = {
            "sample.checkpoint": folder / "first",
            "sample.tokenizer": folder / "tokenizer",
            "sample.num_samples": 24,
            "sample.batch_size": 24,
            "sample.decode_batch_size": 24,
            "sample.num_steps": 8,
            **settings,
        }
        _run("digits_dit", folder / name, "sample", settings, devices)
        with np.load(folder / name / "samples.npz") as arrays:
            return {"images": arrays["arr_0"].astype(np.float64)}

    first = draw("drawn", {}, 1)
    found = []
    for index, (changed, settings, devices) in enumerate(SAMPLING):
        images = draw(f"drawn{index}", settings, devices)
        row = _row(changed, images, first)
        if row["distance"]:
            row["distance"] = float(np.abs(images["images"] - first["images"]).mean() / 255)
        found.append(row)
    return found


def _run(config: str, workdir: pathlib.Path, mode: str, settings: Settings, devices: int) -> None:
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "main.py", f"--config=configs/{config}.py", f"--mode={mode}"]
    xla = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *flags],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"{' '.join(done.args)}\n{done.stdout}{done.stderr}")
    print(".", end="", flush=True, file=sys.stderr)


def _weights(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    params = nnx.state(ldj.load(str(workdir), use_ema=False), nnx.Param)
    return {name: np.asarray(leaf) for name, leaf in named_leaves(nnx.to_pure_dict(params))}


def _row(changed: str, got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> dict:
    assert got.keys() == want.keys()
    difference = sum(np.square(got[n].astype(np.float64) - want[n]).sum() for n in want)
    norm = sum(np.square(want[n].astype(np.float64)).sum() for n in want)
    return {"changed": changed, "distance": float(np.sqrt(difference / norm))}


def _shown(distance: float) -> str:
    return f"{distance:.1e}" if distance else "the same bits"


def _latents(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    latents = np.random.default_rng(0).normal(size=(2, 96, 4, 4, 8)).astype(np.float32)
    write_shard(folder, 0, 0, *latents, np.arange(96) % 10)
    save_stats(folder, compute_stats(LatentShards(folder)))
    return folder


if __name__ == "__main__":
    main()
