"""What surrounds the steps of a run: start-up, stalls of checkpoints, extraction.

    python -m benchmarks.jobs

start-up    seconds from the command to the end of the first step, digits_dit, with an empty cache
            of compiled programs and with the one that the run before left
save stall  seconds that the loop waits when a checkpoint of B/2 (131 M parameters, average, two
            moments) is saved, and until it is on disk
extraction  images a second of --mode=extract, digits_vavae
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.configs import paper
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats, write_shard
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.job import abstract_generator_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main_py(*arguments: str) -> tuple[float, list[tuple[float, str]]]:
    """Runs a job; seconds it took, and its lines with the second at which each came."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = [(time.perf_counter() - began, line.strip()) for line in process.stdout]
    if process.wait():
        raise RuntimeError(f"main.py ended with status {process.returncode}: {lines[-3:]}")
    return time.perf_counter() - began, lines


def startup(scratch: pathlib.Path) -> dict[str, float]:
    """Cold and warm."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((256, 4, 4, 8), np.float32)
    write_shard(scratch / "latents", 0, 0, latents, latents, np.arange(256) % 10)
    save_stats(scratch / "latents", compute_stats(LatentShards(scratch / "latents")))
    seconds = {}
    for name in ("cold", "warm"):
        shutil.rmtree(scratch / "run", ignore_errors=True)
        _, lines = main_py(
            "--config=configs/digits_dit.py",
            f"--workdir={scratch / 'run'}",
            f"--config.data.path={scratch / 'latents'}",
            "--config.train.num_steps=2",
            f"--config.compute.compilation_cache={scratch / 'cache'}",
        )
        seconds[name] = next(at for at, line in lines if line.startswith("first step"))
    return seconds


def save_stall(scratch: pathlib.Path) -> dict[str, float]:
    """Medians would hide the first save, which makes folders; the second counts."""
    config = configs.from_dict(paper.get_config("ladder_rope"))
    config = config.changed(
        model={"variant": "B/2"},
        compute={"dtype": "float32", "remat": "none"},
        train={"accumulate_steps": 1},
    )
    mesh = make_mesh()
    job = abstract_generator_job(config, mesh)
    _, _, abstract = compile_ready(
        job, config, mesh, make_optimizer(config.optimizer, config.train.num_steps)
    )
    rng = np.random.default_rng(0)  # numbers that do not compress
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.random(leaf.shape, np.float32), leaf.dtype), abstract
    )
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    checkpoints = TrainingCheckpoints(str(scratch / "saves"), keep=1)
    for step in (1, 2):
        began = time.perf_counter()
        checkpoints.save(step, state.items(), {"meta": {"step": step}})
        stall = time.perf_counter() - began
        checkpoints.wait()
        whole = time.perf_counter() - began
    checkpoints.close()
    return {
        "gigabytes": bytes_ / 1e9,
        "stall": stall,
        "on disk": whole,
    }


def extraction(scratch: pathlib.Path) -> dict[str, float]:
    """A tokenizer of two steps is as fast as one that is trained."""
    common = ["--config=configs/digits_vavae.py", f"--workdir={scratch / 'tokenizer'}"]
    common += ["--config.vae_loss.alignment=none"]
    main_py(*common, "--config.train.num_steps=2")
    _, lines = main_py(*common, "--mode=extract", f"--config.extract.path={scratch / 'extracted'}")
    rates = [re.search(r"([\d,.]+) images/s", line) for _, line in lines]
    return {"images_per_second": float([m for m in rates if m][-1][1].replace(",", ""))}


def main() -> None:
    """Prints the numbers and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="outputs/benchmarks/jobs.json")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    results: dict = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for measure in (startup, save_stall, extraction):
            results[measure.__name__] = measure(pathlib.Path(folder))
            print(measure.__name__, results[measure.__name__], flush=True)
    write_json(options.output, results)


if __name__ == "__main__":
    main()
