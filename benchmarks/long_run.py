"""Whether a long run stays as it began: memory, open files, threads, time of a step, logs.

    python -m benchmarks.long_run

Trains the smallest generator for 50,000 steps in a process of its own, with a checkpoint every 250,
a record every 10, held-out losses every 500 and an evaluation by samples every 2,500. From outside
its memory, file descriptors, threads and CPU time are read; from inside, at each record, the arrays
that live on the device and what glibc's allocator has given out. Means over windows of 2,500 steps
(of counts the smallest, which is what stays between saves) after the first tenth give a slope and
its 95 % interval. It is flat unless even the lower end grows by more than 1 % in the whole run.
Ends with status 1 where anything is not.
"""

import argparse
import ctypes
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 0.01  # of the level, in the whole run
TOKENIZER = {
    **{"train.num_steps": 1, "train.batch_size": 8, "data.split": "test"},
    **{"tokenizer.ch_mult": "(1, 1)", "tokenizer.num_res_blocks": 0},
    **{"vae_loss.disc_weight": 0.0, "vae_loss.alignment": "none"},
}
# Row of the table: key of a reading, what a window is reduced by, unit, what it is divided by.
ROWS = {
    "memory of the process": ("rss", np.mean, "MiB", 2**20),
    "of it in use": ("used", np.mean, "MiB", 2**20),
    "file descriptors": ("fds", np.min, "", 1),
    "threads": ("threads", np.min, "", 1),
    "arrays on the device": ("arrays", np.min, "", 1),
    "bytes of these": ("bytes", np.min, "KiB", 2**10),
    "CPU time of a step": ("cpu", np.mean, "ms", 1e-3),
}


def main() -> None:
    """Runs, prints the table, writes the readings as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--window", type=int, default=2500)
    parser.add_argument("--output", default="outputs/benchmarks/long_run.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(pathlib.Path(options.child), options.steps, options.window)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _prepare(folder)
        readings = list(_observed(folder, options))
        logs = {p.name: _size(folder / "run" / p.name) for p in (folder / "run").iterdir()}
    rows = _table(readings, options.steps, options.window)
    print(f"size of logs: metrics.jsonl {logs['metrics.jsonl']:,} bytes, tensorboard/ "
          f"{logs['tensorboard']:,} bytes")  # fmt: skip
    pathlib.Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(options.output).write_text(json.dumps({"rows": rows, "readings": readings}))
    sys.exit(not all(row["flat"] for row in rows))


def _prepare(folder: pathlib.Path) -> None:
    """Latents to train on, others that are held out, and a tokenizer that decodes samples."""
    from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats, write_shard

    for index, name in enumerate(("latents", "held_out")):
        latents = np.random.default_rng(index).normal(size=(2, 96, 4, 4, 8)).astype(np.float32)
        write_shard(folder / name, 0, 0, *latents, np.arange(96) % 10)
        save_stats(folder / name, compute_stats(LatentShards(folder / name)))
    flags = [f"--config.{key}={value}" for key, value in TOKENIZER.items()]
    command = [sys.executable, "main.py", "--config=configs/digits_vavae.py", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, f"--workdir={folder / 'tokenizer'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def _child(folder: pathlib.Path, steps: int, window: int) -> None:
    """The training, as main.py does it; a line for each record says what is on the device."""
    import jax

    from lightningdit_jax import config as configs
    from lightningdit_jax.configs import digits_dit
    from lightningdit_jax.inference.quality.in_training import make_training_evaluator
    from lightningdit_jax.training import loop
    from lightningdit_jax.training.run import train

    class Telling(loop.MetricWriter):
        def write(self, step: int, scalars: Mapping[str, float]) -> None:
            super().write(step, scalars)
            arrays = jax.live_arrays()
            found = {"step": step, "arrays": len(arrays), "bytes": sum(a.nbytes for a in arrays)}
            found["used"] = _in_use()
            with open(folder / "inside.jsonl", "a") as file:
                file.write(json.dumps({"time": time.time(), **found}) + "\n")

    loop.MetricWriter = Telling  # type: ignore[misc]
    config = configs.from_dict(digits_dit.get_config()).changed(
        model={"depth": 1, "hidden_size": 16, "num_heads": 2},
        data={"path": str(folder / "latents"), "valid_path": str(folder / "held_out")},
        train={
            **{"num_steps": steps, "batch_size": 8, "log_every_steps": 10},
            **{"checkpoint_every_steps": 250, "validate_every_steps": 500},
            **{"evaluate_every_steps": window, "validate_examples": 96},
        },
        sample={"tokenizer": str(folder / "tokenizer"), "num_steps": 4, "cfg_scale": 1.0},
        evaluate={"train_samples": 50},
    )
    train(dataclasses.replace(config, seed=0), str(folder / "run"), make_training_evaluator)


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and newer, all of whose fields are size_t."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def _in_use() -> int:
    """Bytes that malloc has given out and not got back."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return found.uordblks + found.hblkhd


def _observed(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Readings of the child, a few a second, until it ends."""
    command = [sys.executable, "-m", "benchmarks.long_run", f"--child={folder}"]
    command += [f"--steps={options.steps}", f"--window={options.window}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with (
        open(folder / "output", "w") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as child,
    ):
        process, inside = pathlib.Path(f"/proc/{child.pid}"), folder / "inside.jsonl"
        while child.poll() is None:
            time.sleep(0.25)
            if not inside.exists():
                continue
            *lines, _ = inside.read_text().split("\n")
            try:
                found = _of_process(process)
            except OSError:
                break  # it has ended since
            if lines and found["rss"]:
                yield json.loads(lines[-1]) | found
    if child.returncode:
        sys.exit((folder / "output").read_text()[-3000:])


def _of_process(process: pathlib.Path) -> dict[str, Any]:
    """Bytes of memory, threads, descriptors and CPU seconds. process: its folder in /proc."""
    stat = (process / "stat").read_text().rpartition(") ")[2].split()
    return {
        "rss": int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "threads": int(stat[17]),
        "fds": len(os.listdir(process / "fd")),
        "seconds": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
    }


def _table(readings: list[dict[str, Any]], steps: int, window: int) -> list[dict[str, Any]]:
    """Prints and returns the rows."""
    windows: list[list[dict[str, Any]]] = [[] for _ in range(steps // window)]
    for reading in readings:
        if reading["step"] < steps:
            windows[reading["step"] // window].append(reading)
    windows = windows[max(1, len(windows) // 10) :]
    for before, after in itertools.pairwise(windows):
        step_count = after[-1]["step"] - before[-1]["step"]
        seconds = after[-1]["seconds"] - before[-1]["seconds"]
        for reading in after:
            reading["cpu"] = seconds / step_count
    windows = windows[1:]
    print("| | first window | last window | change in all steps, 95 % interval | |")
    print("|---|---|---|---|---|")
    rows = []
    for name, (key, reduced, unit, divisor) in ROWS.items():
        values = np.array([reduced([r[key] for r in w]) for w in windows]) / divisor
        low = high = 0.0
        if np.ptp(values):
            fit = stats.linregress(np.arange(len(values)), values)
            half = stats.t.ppf(0.975, len(values) - 2) * fit.stderr
            low, high = ((fit.slope + sign * half) * steps / window for sign in (-1, 1))
        flat = bool(low < TOLERANCE * values.mean())
        rows.append(
            {"name": name, "values": values.tolist(), "low": low, "high": high, "flat": flat}
        )
        print(
            f"| {name} | {values[0]:.4g} {unit} | {values[-1]:.4g} {unit} | "
            f"{low:+.3g} to {high:+.3g} {unit} | {'flat' if flat else 'NOT FLAT'} |"
        )
    return rows


def _size(path: pathlib.Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
