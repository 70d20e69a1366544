"""What helps against spikes, and how often the detector is wrong.

    python -m benchmarks.spikes --latents=outputs/demo/latents --tokenizer=outputs/demo/tokenizer

Trains a small generator on the digits' latents, which `make demo` makes: at rates that are too high
for it; at one that suits it, where a few latents are a thousandfold of what they should be; and
where all is well. Each as it is, with train.spikes=skip and rollback, with clipped gradients and
with qk-norm, for several seeds. Tables means and 95 % intervals (Student's t) of the loss over the
last hundred steps, of digits_fid, and of the share of samples recognized as their label. Then a
longer run where all is well counts spikes, all of them false alarms.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.arguments import names, need_demo
from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import digits_dit
from lightningdit_jax.data.latents import LatentShards, load_stats, save_stats, write_shard
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.training.run import train

Changes = Mapping[str, Mapping[str, Any]]
POLICIES: dict[str, Changes] = {
    "none": {},
    "skip": {"train": {"spikes": "skip"}},
    "rollback": {"train": {"spikes": "rollback"}},
    "clipped to norm 1": {"optimizer": {"max_grad_norm": 1.0}},
    "qk-norm": {"model": {"use_qknorm": True}},
}
NUMBERS = {"loss": "loss", "eval/digits_fid": "digits_fid", "eval/recognised_share": "recognized"}
WINDOW = 100  # steps that a record, and the loss at the end, is the mean of


def main() -> None:
    """Prints the tables and writes all numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latents", default="outputs/demo/latents")
    parser.add_argument("--tokenizer", default="outputs/demo/tokenizer")
    parser.add_argument("--rates", default="0.03,0.07", help="too high")
    parser.add_argument("--good-rate", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3, help="0: false alarms alone")
    parser.add_argument("--long", type=int, default=5000, help="steps that count false alarms")
    parser.add_argument("--output", default="outputs/benchmarks/spikes.json")
    options = parser.parse_args()
    need_demo(parser, options.latents, options.tokenizer)
    base = _base(options)
    if options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            _damaged(options.latents, folder)
            _study(base, folder, options)
    steps = {"num_steps": options.long, "evaluate_every_steps": 0, "spikes": "skip"}
    for clipped in (0.0, 1.0):
        changes = {"train": steps, "optimizer": {"max_grad_norm": clipped}}
        alarms = _measured(_changed(base, changes))["spikes"]
        print(f"false alarms in {options.long:,} steps, max_grad_norm {clipped:g}: {alarms:.0f}")


def _study(base: Config, damaged: str, options: argparse.Namespace) -> None:
    cases: dict[str, Changes] = {
        f"rate {float(rate):g}": {"optimizer": {"learning_rate": float(rate)}}
        for rate in names(options.rates)
    }
    cases["damaged latents"] = {"data": {"path": damaged}}
    rows = {
        f"{case}, {name}": _changed(_changed(base, changes), policy)
        for case, changes in cases.items()
        for name, policy in POLICIES.items()
    }
    rows["all is well, none"] = base
    found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for seed in range(options.seeds):
        for row, settings in rows.items():
            config = dataclasses.replace(settings, seed=seed)
            found[row].append(_measured(config))
            print(row, seed, found[row][-1], flush=True, file=sys.stderr)
            write_json(options.output, found)
    print("| | ended finite | spikes |", " | ".join(NUMBERS.values()), "|")
    print("|" + "---|" * (3 + len(NUMBERS)))
    for row, runs in found.items():
        finite = sum(bool(run["finite"]) for run in runs)
        spikes = ", ".join(f"{run['spikes']:.0f}" for run in runs)
        cells = [_interval([run.get(name, np.nan) for run in runs]) for name in NUMBERS]
        print(f"| {row} | {finite} of {len(runs)} | {spikes} | {' | '.join(cells)} |")


def _damaged(latents: str, folder: str) -> None:
    """The same latents, three of which are a thousandfold; statistics are of them undamaged."""
    shards = LatentShards(latents)
    indices = np.arange(len(shards))
    sides = [shards.read(indices, np.full(len(shards), flip)) for flip in (False, True)]
    for latent in sides:
        latent[[100, 500, 900]] *= 1000
    write_shard(folder, 0, 0, *sides, shards.labels)
    save_stats(folder, load_stats(latents))


def _base(options: argparse.Namespace) -> Config:
    config = configs.from_dict(digits_dit.get_config())
    return config.changed(
        model={"depth": 2, "hidden_size": 64},
        data={"path": options.latents},
        optimizer={"max_grad_norm": 0.0, "learning_rate": options.good_rate},
        train={
            **{"num_steps": options.steps, "batch_size": 32, "log_every_steps": WINDOW},
            **{"checkpoint_every_steps": 50, "evaluate_every_steps": options.steps},
        },
        sample={"tokenizer": options.tokenizer, "num_steps": 25},
        evaluate={"train_samples": 500},
    )


def _changed(config: Config, changes: Changes) -> Config:
    return config.changed(**changes)


def _measured(config: Config) -> dict[str, float]:
    """The numbers at the end of a run, and whether it ended finite."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(config, folder, make_training_evaluator)
            finite = True
        except FloatingPointError as error:
            print(error, file=sys.stderr)
            finite = False
        lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    found: dict[str, float] = {"spikes": 0.0}
    for line in lines:
        found |= json.loads(line)
    return {"finite": float(finite), **found}


def _interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    mean, spread = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
    half = stats.t.ppf(0.975, len(values) - 1) * spread
    return f"{mean:.3g} ± {half:.2g}"


if __name__ == "__main__":
    main()
