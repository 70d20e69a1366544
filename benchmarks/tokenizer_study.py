"""Which number of a tokenizer foretells how good a generator on its latents is.

    python scripts/digits_foundation.py --output=outputs/foundation
    python -m benchmarks.tokenizer_study --foundation=outputs/foundation --output=outputs/tokenizers

Trains small tokenizers that differ in one or two things (benchmarks/tokenizer_variants.py), several
seeds of each, takes every measure of each, trains a generator of equal budget on the latents of
each, and ranks: Spearman's and Kendall's correlation of each measure with the Fréchet distance of
the generator's samples. First of digits, then of crops of photographs. Prints tables, writes
study.json after every run, from which it goes on where it was stopped, and pictures.
"""

import argparse
import pathlib
import sys
from typing import Any

import jax

from benchmarks import tokenizer_pictures
from benchmarks.arguments import need_demo
from benchmarks.tokenizer_results import plot_correlations, plot_measures, report
from benchmarks.tokenizer_runs import run
from benchmarks.tokenizer_variants import (
    DIGITS,
    PHOTOGRAPHS,
    digits_configs,
    photographs_configs,
)
from lightningdit_jax.atomic_file import read_json, write_json


def main() -> None:
    """Runs what study.json does not have, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foundation", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photograph-seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--sampling-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    need_demo(parser, options.foundation)
    jax.config.update("jax_compilation_cache_dir", str(options.output / "compiled"))
    path = options.output / "study.json"
    study: dict[str, Any] = {"steps": options.steps, "digits": {}, "photographs": {}}
    if path.exists():
        study = read_json(path)
        if study["steps"] != options.steps:
            sys.exit(f"{path} is of {study['steps']} steps, not {options.steps}")
    domains = {
        "digits": (
            tokenizer_pictures.digits(8),
            DIGITS,
            digits_configs(options.foundation, options.steps),
            options.seeds,
        ),
        "photographs": (
            tokenizer_pictures.photographs(),
            PHOTOGRAPHS,
            photographs_configs(options.steps),
            options.photograph_seeds,
        ),
    }
    for domain, (pictures, variants, bases, seeds) in domains.items():
        for seed in seeds:
            for variant in variants:
                found = study[domain].setdefault(variant.name, {})
                if str(seed) in found:
                    continue
                pair = variant.tokenizer(bases[0]), variant.generator(bases[1])
                found[str(seed)] = row = run(*pair, pictures, seed, options.sampling_seeds)
                write_json(path, study)
                print(domain, variant.name, seed, row["fid"], row["cpu_seconds"], flush=True)
        if seeds:
            rows = {variant.name: study[domain][variant.name] for variant in variants}
            print(f"\n{report(rows, pictures.prefix)}\n", flush=True)
            plot_measures(rows, pictures.prefix, options.output / f"{domain}_measures.png")
            plot_correlations(rows, pictures.prefix, options.output / f"{domain}_correlations.png")


if __name__ == "__main__":
    main()
