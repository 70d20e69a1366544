"""Digits: what it gains that a tokenizer trains beside its generator (REPA-E), and what it costs.

    python -m benchmarks.repae_study --demo=outputs/demo --output=outputs/repae_study

The baseline of benchmarks/recipes.py, of several training seeds, as it is, aligned (REPA), and with
a tokenizer that trains beside it, from that of the demo or a fresh one; and with one that trains
too, but by its own loss alone, which is what REPA-E changes and nothing else. Steps, data and their
order, first weights of the generator and its rate are the same in all; the tokenizer's rate is
that at which the demo trains it. Prints tables, writes study.json after every run, from which it
goes on where it was stopped, and a picture of samples.
"""

import argparse
import dataclasses
import functools
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.arguments import need_demo, study_of_digits
from benchmarks.recipe_results import NUMBERS, Numbers, cell, half, of_seeds
from benchmarks.recipe_runs import judge, sampler_of, training_flops
from benchmarks.recipes import baseline_of, make_latents
from benchmarks.repae_runs import keep_tokenizer, train
from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import read_json, write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import digits_repae, digits_vavae
from lightningdit_jax.evaluation.error_bars import ErrorBar, of_mean
from lightningdit_jax.inference.quality.tokenizer import evaluate_tokenizer

FROZEN, REPA, REPAE = "frozen tokenizer", "REPA, frozen tokenizer", "REPA-E"
OWN_LOSS, FRESH = "REPA, tokenizer by its own loss", "REPA-E, fresh tokenizer"
# A row less another.
PAIRS = (
    (REPA, FROZEN),
    (OWN_LOSS, REPA),
    (REPAE, OWN_LOSS),
    (REPAE, REPA),
    (REPAE, FROZEN),
    (FRESH, FROZEN),
)
# Of repae.weight: above 0, and nothing beside the tokenizer's own loss.
NOTHING = 1e-9
PSNR = "reconstruction_psnr"
SETTINGS = ("rate", "steps", "samples", "sampling_seeds")  # that all runs of a study share
RECORDS = ("loss", "repa_loss", "align_loss", "tokenizer_loss")
SHOWN = 40  # samples in the picture, of the first seeds
Runs = Mapping[str, Mapping[str, Any]]  # of a row, by training seed


def configs_of(baseline: Config, demo: pathlib.Path) -> dict[str, Config]:
    """A config a row."""
    joint, alone = (configs.from_dict(c.get_config()) for c in (digits_repae, digits_vavae))
    share = alone.optimizer.learning_rate / baseline.optimizer.learning_rate
    factors = tuple(f"{network}/*={share}" for network in ("tokenizer", "discriminator"))
    foundation = {"foundation": str(demo / "foundation")}
    aligned = baseline.changed(
        repa={"features": "computed", "depth": 1, "projector_dim": 128}, frozen=foundation
    )
    parts = ("tokenizer", "discriminator", "vae_loss", "stages")
    both = dataclasses.replace(aligned, **{part: getattr(joint, part) for part in parts}).changed(
        data={name: getattr(joint.data, name) for name in ("source", "path", "augment")},
        repae={"weight": joint.repae.weight, "init": str(demo / "tokenizer")},
        optimizer={"rate_factors": factors},
    )
    return {
        FROZEN: baseline,
        REPA: aligned,
        REPAE: both,
        OWN_LOSS: both.changed(repae={"weight": NOTHING}),
        FRESH: both.changed(repae={"init": ""}),
    }


class Study:
    """Runs and their numbers, kept in study.json."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._path = options, options.output / "study.json"
        baseline = baseline_of(options).changed(optimizer={"learning_rate": options.rate})
        self.configs = configs_of(baseline, options.demo)
        settings = {name: getattr(options, name) for name in SETTINGS}
        self.found: dict[str, Any] = {"settings": settings, "rows": {}}
        if self._path.exists():
            self.found = read_json(self._path)
            if self.found["settings"] != settings:
                sys.exit(f"{self._path} is of {self.found['settings']}, not {settings}")

    def measure(self, name: str) -> None:
        """The runs of a row that study.json does not have."""
        config, runs = self.configs[name], self.found["rows"].setdefault(name, {})
        for seed in self._options.seeds:
            if str(seed) not in runs:
                runs[str(seed)] = run = self._run(name, config, seed)
                said = ", ".join(
                    f"{key} {value:.3f}" for key, value in run.items() if key != "numbers"
                )
                means = (f"{key} {of_seeds({'': run['numbers']}, key)['']:.3f}" for key in NUMBERS)
                self._say(f"{name}, seed {seed}: {', '.join(means)}, {said}")

    def _run(self, name: str, config: Config, seed: int) -> dict[str, Any]:
        began = time.process_time()
        trained, scaling = train(config, seed), None
        tokenizer = self._options.demo / "tokenizer"
        if config.is_joint:
            tokenizer = self._options.output / "tokenizers" / f"{name}-{seed}"
            shutil.rmtree(tokenizer, ignore_errors=True)  # of a run that was stopped
            scaling = keep_tokenizer(config, trained.state, str(tokenizer))
        sampled = config.changed(sample={"tokenizer": str(tokenizer)})
        seeds = self._options.sampling_seeds
        numbers = judge(sampled, [trained.state], seeds, scaling)[0]
        if seed == self._options.seeds[0]:
            drawn = dataclasses.replace(sampled, seed=seeds[0])
            images = list(sampler_of(drawn, SHOWN, scaling).draw(trained.state))
            np.save(self._options.output / f"{name}.npy", np.concatenate(images))
        ends = {
            key: float(values[-(len(values) // 10) :].mean())
            for key, values in trained.records.items()
            if key in RECORDS
        }
        return {
            "numbers": {str(by): found for by, found in numbers.items()},
            PSNR: psnr_of(tokenizer),
            "step_flops": step_flops(config),
            "step_seconds": trained.step_seconds,
            "seconds": time.process_time() - began,
            **ends,
        }

    def _say(self, line: str) -> None:
        write_json(self._path, self.found)
        print(line, flush=True)


step_flops = functools.cache(training_flops)  # which traces every network


@functools.cache
def psnr_of(tokenizer: pathlib.Path) -> float:
    """Of reconstructions of the held-out digits, in dB."""
    config = configs.from_dict(digits_vavae.get_config()).changed(
        mesh={"data": 1, "fsdp": 1, "tensor": 1, "dcn_data": 1},
        extract={"checkpoint": str(tokenizer)},
    )
    return evaluate_tokenizer(config, "")[0].numbers[PSNR]


def numbers_of(runs: Runs) -> Numbers:
    """The numbers of samples of a row's runs."""
    return {seed: run["numbers"] for seed, run in runs.items()}


def rows_table(rows: Mapping[str, Runs]) -> str:
    """Markdown: a row each, means over training seeds and half of their 95 % intervals."""
    costs = ("GFLOP a step", "CPU ms a step")
    lines = [f"| | {' | '.join((*costs, *NUMBERS, PSNR))} |", "|" + "---|" * 6]
    for name, runs in rows.items():
        flops = next(iter(runs.values()))["step_flops"]
        milliseconds = 1e3 * np.median([run["step_seconds"] for run in runs.values()])
        bars = [of_mean(list(of_seeds(numbers_of(runs), number).values())) for number in NUMBERS]
        cells = [f"{flops / 1e9:.3g}", f"{milliseconds:.3g}", *map(plus_minus, bars)]
        cells.append(plus_minus(of_mean([run[PSNR] for run in runs.values()])))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plus_minus(bar: ErrorBar) -> str:
    """A mean and half the width of its interval."""
    return f"{bar.value:.3f} ± {half(bar):.3f}"


def pairs_table(rows: Mapping[str, Runs]) -> str:
    """Markdown: a row less another, seed by seed, with 95 % intervals."""
    lines = [f"| | {' | '.join((*NUMBERS, PSNR))} |", "|" + "---|" * (2 + len(NUMBERS))]
    for name, other in PAIRS:
        pair = [{"numbers": numbers_of(rows[row])} for row in (name, other)]
        cells = [cell(number, *pair) for number in NUMBERS]
        psnr = of_mean([run[PSNR] - rows[other][seed][PSNR] for seed, run in rows[name].items()])
        cells.append(f"{psnr.value:+.3f} ± {half(psnr):.3f}")
        lines.append(f"| {name} less {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(images: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Samples of each row, two lines of them, uint8 [SHOWN, H, W, 3]."""
    figure, panels = plt.subplots(len(images), 1, figsize=(8, 1.2 * len(images)))
    for panel, (name, shown) in zip(panels, images.items()):
        lines = np.split(shown, 2)
        picture = np.concatenate([np.concatenate(list(line), axis=1) for line in lines])
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(name, fontsize=8)
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Runs what study.json does not have, and reports."""
    parser = study_of_digits(__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1.5e-2)  # benchmarks/recipes.py's best
    options = parser.parse_args()
    need_demo(parser, options.demo / "tokenizer", options.demo / "foundation")
    jax.config.update("jax_compilation_cache_dir", str(options.output / "compiled"))
    make_latents(options)
    study = Study(options)
    print(f"the demo's tokenizer: {PSNR} {psnr_of(options.demo / 'tokenizer'):.3f}", flush=True)
    for name in study.configs:
        study.measure(name)
    rows = study.found["rows"]
    print(f"\n{rows_table(rows)}\n\n{pairs_table(rows)}")
    images = {name: np.load(options.output / f"{name}.npy") for name in rows}
    plot(images, options.output / "samples.png")


if __name__ == "__main__":
    main()
