"""The whole system on handwritten digits: tokenizer, latents, generator, samples, evaluation.

    python scripts/demo.py --output=outputs/demo

Runs the commands a user would run, prints each of them, and ends with pictures and summary.json.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lightningdit_jax.atomic_file import write_json  # noqa: E402

LEAST_RECOGNIZED = 0.95
# XLA gives its memory back after every step; in large pages it comes back sooner.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main() -> None:
    """Runs all jobs in a fresh output folder and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/demo"))
    output = parser.parse_args().output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    began = time.perf_counter()

    names = ("foundation", "latents", "tokenizer", "generator")
    foundation, latents, tokenizer, generator = (output / name for name in names)
    run_script("train a small foundation model", "digits_foundation.py", f"--output={foundation}")
    run(
        "train the tokenizer",
        "--config=configs/digits_vavae.py",
        f"--workdir={tokenizer}",
        f"--config.frozen.foundation={foundation}",
    )
    vae, dit = f"--config={tokenizer}", f"--config={generator}"
    run("extract latents", vae, "--mode=extract", f"--config.extract.path={latents}")
    run("evaluate the tokenizer", vae, "--mode=evaluate")
    run(
        "train the generator",
        "--config=configs/digits_dit.py",
        f"--workdir={generator}",
        f"--config.sample.tokenizer={tokenizer}",
        f"--config.data.path={latents}",
        "--config.train.evaluate_every_steps=425",
        "--config.train.best_metric=digits_fid",
    )
    run("sample", dit, "--mode=sample")
    run("evaluate the samples", dit, "--mode=evaluate")

    shutil.copy(generator / "samples.png", output / "samples.png")
    shutil.copy(tokenizer / "reconstructions.png", output / "reconstructions.png")
    plot_losses({"tokenizer": tokenizer, "generator": generator}, output / "losses.png")
    summary = {
        name: value
        for folder in (tokenizer, generator)
        for name, value in json.loads((folder / "evaluation.json").read_text()).items()
        if name not in ("num_images", "num_samples", "of")
    }
    summary["minutes"] = round((time.perf_counter() - began) / 60, 2)
    report(summary, output)
    if summary["recognised_share"] < LEAST_RECOGNIZED:
        sys.exit(f"only {summary['recognised_share']:.3f} recognized, expected {LEAST_RECOGNIZED}")


def run(title: str, *arguments: str) -> None:
    """One job as a user would start it; a failure ends the demo."""
    run_script(title, "../main.py", *arguments)


def run_script(title: str, script: str, *arguments: str) -> None:
    """The same for a script of this folder."""
    path = (ROOT / "scripts" / script).resolve().relative_to(ROOT)
    print(f"\n=== {title}\n$ python {path} {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, ROOT / path, *arguments], cwd=ROOT, env=LARGE_PAGES | os.environ
    )
    if done.returncode:
        sys.exit(f"'{title}' ended with status {done.returncode}")


def plot_losses(runs: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Loss against step, one panel per run."""
    figure, panels = plt.subplots(1, len(runs), figsize=(5 * len(runs), 3.5))
    for panel, (name, folder) in zip(panels, runs.items()):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        records = [r for r in records if "loss" in r]
        panel.plot([r["step"] for r in records], [r["loss"] for r in records])
        panel.set(title=name, xlabel="step", ylabel="loss", yscale="log")
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def report(summary: dict[str, float], output: pathlib.Path) -> None:
    """summary.json and the same on the terminal."""
    write_json(output / "summary.json", summary)
    print("\n=== done")
    for name, value in summary.items():
        print(f"{name:30s} {value:.4g}")
    print(f"pictures: {output}/samples.png reconstructions.png losses.png; {output}/summary.json")


if __name__ == "__main__":
    main()
