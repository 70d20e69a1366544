"""Digits: what each switch of the recipe gains, and the best of them together.

    python -m benchmarks.recipes --demo=outputs/demo --output=outputs/recipes

Trains a small generator on the digits' latents, with the tokenizer and the small vision model that
`make demo` makes, for several training seeds, and judges samples of several sampling seeds. Each
switch (benchmarks/recipe_switches.py) alone is compared with the baseline seed by seed: at equal
steps and grid, and, where it costs something, with as many fewer steps and points of the grid as
make its FLOPs the baseline's. Then the best of those that helped together, with other training
seeds. The rate of each optimizer is the best of three by a seed that is in none of these. Prints
tables, writes study.json after every run, from which it goes on where it was stopped, and pictures.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.arguments import need_demo, study_of_digits
from benchmarks.recipe_results import FLOPS, NUMBERS, STEPS, gains, of_seeds, plot, summary, table
from benchmarks.recipe_runs import judge, sampling_flops, train_together, training_flops
from benchmarks.recipe_switches import BASELINE, SIGMAS, SWITCHES, Switch, combined
from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import read_json, write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import digits_dit, digits_vavae
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.training.state import TrainState

ALIKE = 0.02  # costs that differ by less are equal


def baseline_of(options: argparse.Namespace) -> Config:
    """The demo's generator, smaller: two blocks of width 48, and guidance of 1.5."""
    return configs.from_dict(digits_dit.get_config()).changed(
        mesh={"data": 1, "fsdp": 1, "tensor": 1, "dcn_data": 1},
        compute={"remat": "none"},
        model={"depth": 2, "hidden_size": 48, "num_heads": 3},
        data={"path": str(options.output / "latents")},
        optimizer={"warmup_steps": 20},
        train={
            "num_steps": options.steps,
            "batch_size": 16,
            "accumulate_steps": 1,
            "ema_decay": 0.98,
            "ema_sigmas": SIGMAS,
        },
        sample={
            "tokenizer": str(options.demo / "tokenizer"),
            "batch_size": 200,
            "decode_batch_size": 50,
            "num_steps": 11,
            "cfg_scale": 1.5,
        },
        evaluate={"train_samples": options.samples},
    )


def make_latents(options: argparse.Namespace) -> None:
    """Latents of the training digits and the vision model's features of them, beside each other."""
    config = configs.from_dict(digits_vavae.get_config()).changed(
        extract={
            "checkpoint": str(options.demo / "tokenizer"),
            "path": str(options.output / "latents"),
            "features": str(options.demo / "foundation"),
        }
    )
    extract(config, str(options.output / "extraction"))


def at_equal_flops(config: Config, baseline: Config) -> Config:
    """With the steps and the grid that cost most nearly what the baseline's do."""
    training = training_flops(config) / training_flops(baseline)
    sampling = sampling_flops(baseline)
    if abs(training - 1) > ALIKE:
        config = config.changed(train={"num_steps": round(baseline.train.num_steps / training)})
    if abs(sampling_flops(config) / sampling - 1) > ALIKE:
        grids = [
            config.changed(sample={"num_steps": points})
            for points in range(3, 4 * baseline.sample.num_steps)
        ]
        config = min(grids, key=lambda c: abs(sampling_flops(c) - sampling))
    return config


class Study:
    """Runs and their numbers, kept in study.json."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._path = options, options.output / "study.json"
        self.baseline = baseline_of(options)
        settings = {k: v for k, v in vars(options).items() if k not in ("demo", "output")}
        self.found: dict[str, Any] = {"settings": settings, "rates": {}, "rows": {}, "again": {}}
        if self._path.exists():
            self.found = read_json(self._path)
            if self.found["settings"] != settings:
                sys.exit(f"{self._path} is of {self.found['settings']}, not {settings}")
        # By whether they are others than the baseline's.
        self._trained: dict[bool, tuple[Config, Sequence[int], list[TrainState], list[float]]] = {}

    def rate(self, optimizer: str) -> float:
        """The best of --rates, by digits_fid of a seed of its own."""
        rates, known = self._options.rates, self.found["rates"]
        if optimizer not in known:
            config = self.baseline.changed(optimizer={"name": optimizer})
            seeds = [self._options.tuning_seed] * len(rates)
            states, losses = train_together(config, seeds, rates)
            judged = judge(config, states, self._options.sampling_seeds)
            tried = of_seeds(dict(zip(map(str, rates), judged)), "digits_fid")
            best = min(tried, key=lambda rate: tried[rate])
            known[optimizer] = {"digits_fid": tried, "losses": ends(losses), "best": float(best)}
            shown = ", ".join(f"{fid:.3f} at {rate}" for rate, fid in tried.items())
            self._say(f"{optimizer}: digits_fid {shown}")
        return known[optimizer]["best"]

    def measure(self, part: str, name: str, switch: Switch, seeds: Sequence[int]) -> None:
        """A row of `part` at equal steps, and at equal FLOPs where that is another run."""
        rate = self.rate(switch.optimizer)
        config = switch.of(self.baseline).changed(optimizer={"learning_rate": rate})
        row = self.found[part].setdefault(name, {})
        for at, run in {STEPS: config, FLOPS: at_equal_flops(config, self.baseline)}.items():
            if at in row or (at == FLOPS and run == config):
                continue
            began = time.perf_counter()
            states, losses = self._states(run, switch.trains, seeds)
            judged = judge(run, states, self._options.sampling_seeds)
            row[at] = {
                "steps": run.train.num_steps,
                "grid": run.sample.num_steps,
                "step_flops": training_flops(run),
                "sampling_flops": sampling_flops(run),
                "losses": losses,
                "numbers": {str(seed): numbers for seed, numbers in zip(seeds, judged)},
                "seconds": round(time.perf_counter() - began, 1),
            }
            means = ", ".join(
                f"{number} {np.mean(list(of_seeds(row[at]['numbers'], number).values())):.3f}"
                for number in NUMBERS
            )
            self._say(f"{name}, equal {at}: {means}, {row[at]['seconds']} s")

    def _states(
        self, config: Config, trains: bool, seeds: Sequence[int]
    ) -> tuple[list[TrainState], list[float]]:
        """Trained; or the baseline's, or the last others', where those are what is asked for."""
        config = dataclasses.replace(config, sample=self.baseline.sample)
        kept = self._trained.get(trains)
        if kept is None or kept[:2] != (config, seeds):
            rates = [config.optimizer.learning_rate] * len(seeds)
            states, losses = train_together(config, seeds, rates)
            self._trained[trains] = kept = (config, seeds, states, ends(losses))
        return kept[2:]

    def _say(self, line: str) -> None:
        write_json(self._path, self.found)
        print(line, flush=True)


def ends(losses: np.ndarray) -> list[float]:
    """Of each run the mean loss of its last tenth. [runs, steps]."""
    return losses[:, -(losses.shape[1] // 10) :].mean(axis=1).tolist()


def main() -> None:
    """Runs what study.json does not have, and reports."""
    parser = study_of_digits(__doc__.splitlines()[0])
    parser.add_argument("--other-seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--tuning-seed", type=int, default=100)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 7e-3, 1.5e-2])
    options = parser.parse_args()
    need_demo(parser, options.demo / "tokenizer", options.demo / "foundation")
    jax.config.update("jax_compilation_cache_dir", str(options.output / "compiled"))
    make_latents(options)
    study, baseline = Study(options), Switch(BASELINE, "", {})
    for switch in (baseline, *SWITCHES):
        study.measure("rows", switch.name, switch, options.seeds)
    rows, again = study.found["rows"], study.found["again"]
    print(f"\n{table(rows)}\n\n{summary(rows)}\n", flush=True)
    plot(rows, options.output / "study.png")
    best = combined(SWITCHES, gains(rows))
    if best is None:
        print("no switch lowers digits_fid by more than the spread")
        return
    for switch in (baseline, best):
        study.measure("again", switch.name, switch, options.other_seeds)
    print(f"\nwith other training seeds:\n\n{table(again)}\n\n{summary(again)}")


if __name__ == "__main__":
    main()
