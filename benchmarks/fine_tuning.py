"""Digits: a generator of 0-4 tuned to 5-9, against one that begins with nothing.

    python -m benchmarks.fine_tuning --output=outputs/fine_tuning

One tokenizer, the demo's, and the latents of its training digits in two folders, scaled alike. For
each seed a generator of 0-4 is trained; then 5-9 are learned from scratch, from its weights, and
from its weights with the new classes' rows begun as the null class's. Every so many steps samples
of 5-9 are judged by digits_fid, of a classifier fitted on real 5-9 alone. Prints a table, writes
study.json and a picture of the distances. Goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import digits_dit
from lightningdit_jax.data.digits import digits_to_8x8
from lightningdit_jax.data.latents import LatentShards, load_stats, save_stats, write_shard
from lightningdit_jax.evaluation.recognition import DigitsJudge
from lightningdit_jax.inference.quality.digits import evaluate_digits, real_digits
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.metric import Metric, Quality
from lightningdit_jax.inference.quality.metrics import METRICS
from lightningdit_jax.training.run import train
from lightningdit_jax.training.writer import EVALUATION

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLD, NEW = range(5), range(5, 10)
NULL_ROWS = "0,1,2,3,4" + 5 * ",null"
VARIANTS = {
    "scratch": {},
    "tuned": {"init": True},
    "tuned, new classes from the null class": {"init": True, "init_labels": NULL_ROWS},
}
METRIC = "new_digits"
DISTANCE = f"{EVALUATION}digits_fid"


def judge() -> DigitsJudge:
    """Fitted on real training digits of the new classes."""
    x, labels = real_digits("train")
    new = np.isin(labels, NEW)
    return DigitsJudge.fit(x[new], labels[new])


def quality(*_: object) -> Quality:
    """Of samples of the new classes as they are drawn."""
    judge_ = judge()

    def judged(batches: Iterator[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        digits = digits_to_8x8(np.concatenate(list(batches)))
        return {
            "digits_fid": judge_.frechet_distance(digits),
            "recognised_share": judge_.recognised_share(digits, labels),
        }

    return judged


METRICS[METRIC] = Metric(evaluate_digits, quality, ("digits_fid", "recognised_share"))


def run(script: str, *arguments: str) -> None:
    """A program of this repository; a failure ends the study."""
    print(f"$ python {script} {' '.join(arguments)}", flush=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / script), *arguments]
    log = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if log.returncode:
        sys.exit(log.stdout + log.stderr)


def make_latents(folder: pathlib.Path, tokenizer_steps: int) -> dict[str, pathlib.Path]:
    """Folders of the latents of old and new digits, by one tokenizer."""
    foundation, tokenizer, latents = (folder / n for n in ("foundation", "tokenizer", "latents"))
    if not (foundation / "meta").exists():
        run("scripts/digits_foundation.py", f"--output={foundation}")
    vae = ["--config=configs/digits_vavae.py", f"--workdir={tokenizer}"]
    vae += [f"--config.frozen.foundation={foundation}"]
    vae += [f"--config.train.num_steps={tokenizer_steps}"]
    vae += [f"--config.train.checkpoint_every_steps={tokenizer_steps}"]
    run("main.py", *vae)
    run("main.py", *vae, "--mode=extract", f"--config.extract.path={latents}")
    shards, stats = LatentShards(latents), load_stats(latents)
    parts = {"old": folder / "latents_old", "new": folder / "latents_new"}
    for part, classes in zip(parts.values(), (OLD, NEW)):
        rows = np.flatnonzero(np.isin(shards.labels, classes))
        images = [shards.read(rows, np.full(len(rows), flip)) for flip in (False, True)]
        write_shard(part, 0, 0, *images, shards.labels[rows])
        save_stats(part, stats)
    return parts


def generator(folder: pathlib.Path, seed: int, latents: pathlib.Path, **train: object) -> Config:
    """The demo's, on one of the two folders."""
    config = dataclasses.replace(configs.from_dict(digits_dit.get_config()), seed=seed)
    return config.changed(
        data={"path": str(latents)},
        train={**train, "checkpoint_every_steps": train["num_steps"]},
        sample={"tokenizer": str(folder / "tokenizer"), "labels": ",".join(map(str, NEW))},
        evaluate={"metric": METRIC},
    )


def measure(
    folder: pathlib.Path, latents: dict[str, pathlib.Path], seed: int, options: argparse.Namespace
) -> dict[str, dict[int, float]]:
    """digits_fid by step, by variant."""
    source = folder / f"source_{seed}"
    train(generator(folder, seed, latents["old"], num_steps=options.source_steps), str(source))
    found = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        changes = {**changes, "init": str(source) if changes.get("init") else ""}
        changes |= {"num_steps": options.steps, "evaluate_every_steps": options.every}
        workdir = folder / f"new_{number}_{seed}"
        config = generator(folder, seed, latents["new"], **changes)
        train(config, str(workdir), make_training_evaluator)
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        found[name] = {r["step"]: r[DISTANCE] for r in lines if DISTANCE in r}
    return found


def summarize(runs: list[dict[str, dict[int, float]]]) -> dict[str, dict]:
    """Mean and spread over seeds of the distance by step, and steps to where scratch ends."""
    summary: dict[str, dict] = {}
    for name in VARIANTS:
        distances = np.array([list(run[name].values()) for run in runs])
        reached = []
        for run in runs:
            goal = list(run["scratch"].values())[-1]
            steps = [step for step, distance in run[name].items() if distance <= goal]
            reached.append(min(steps, default=None))
        summary[name] = {
            "steps": list(runs[0][name]),
            "mean": distances.mean(axis=0).tolist(),
            "spread": distances.std(axis=0, ddof=min(1, len(runs) - 1)).tolist(),
            "steps_to_where_scratch_ends": reached,
        }
    return summary


def table(summary: dict[str, dict]) -> str:
    """Markdown: a row a step, and one of steps to equal distance, a number a seed."""
    names = list(summary)
    lines = [f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for i, step in enumerate(summary[names[0]]["steps"]):
        cells = [f"{summary[n]['mean'][i]:.3f} ± {summary[n]['spread'][i]:.3f}" for n in names]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    cells = [
        ", ".join(
            "never" if s is None else str(s) for s in summary[n]["steps_to_where_scratch_ends"]
        )
        for n in names
    ]
    lines.append(f"| steps to where scratch ends | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(summary: dict[str, dict], path: pathlib.Path) -> None:
    """Distance by step, means and spreads."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, found in summary.items():
        axes.errorbar(found["steps"], found["mean"], found["spread"], label=name, capsize=2)
    axes.set(xlabel="step", ylabel="digits_fid of 5-9", yscale="log")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs all seeds and variants and reports means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokenizer-steps", type=int, default=260)
    parser.add_argument("--source-steps", type=int, default=850)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(options.output / "compiled"))
    latents = make_latents(options.output, options.tokenizer_steps)
    runs = [measure(options.output, latents, seed, options) for seed in options.seeds]
    x, labels = real_digits("test")
    summary = summarize(runs)
    held_out = judge().frechet_distance(x[np.isin(labels, NEW)])
    study = {"seeds": options.seeds, "summary": summary, "runs": runs, "held_out": held_out}
    write_json(options.output / "study.json", study)
    plot(summary, options.output / "study.png")
    print(f"{table(summary)}\n\nheld-out digits of 5-9: {held_out:.3f}")


if __name__ == "__main__":
    main()
