"""Reads changed and made inputs of every kind, and prints what became of them.

    python -m tests.fuzz
    python -m tests.fuzz --scale=0.1 --seed=7
    python -m tests.fuzz --kind=images --only=17

The inputs are functions of --seed, and of their numbers, alone. Status 1 says that one was neither
read nor refused in a line.
"""

import argparse
import collections
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz.harness import GOOD, OUTCOMES, Result, run
from tests.fuzz.kinds import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="the kinds whose names hold this")
    parser.add_argument("--only", type=int, help="the input of this number")
    parser.add_argument("--show", type=int, default=5, help="inputs of a kind to say more of")
    parser.add_argument("--refusals", action="store_true", help="says them too")
    options = parser.parse_args()
    total: collections.Counter[str] = collections.Counter()
    bad = False
    print("| input | inputs |", " | ".join(OUTCOMES), "| seconds |", flush=True)
    print("|---|" + "---|" * (len(OUTCOMES) + 2))
    for kind, count in KINDS.items():
        if options.kind and options.kind not in kind.name:
            continue
        began = time.monotonic()
        number = max(1, round(count * options.scale))
        inputs = dict(enumerate(kind.inputs(options.seed, max(number, (options.only or 0) + 1))))
        if options.only is not None:
            inputs = {options.only: inputs[options.only]}
        results = run(kind, inputs)
        counts = collections.Counter(result.outcome for result in results)
        total += counts
        _print_row(kind.name, counts, time.monotonic() - began)
        worse = [result for result in results if result.outcome not in GOOD]
        bad = bad or bool(worse)
        shown = results if options.refusals else worse
        for result in _different(shown)[: options.show]:
            print(f"    {result.number} {result.outcome}: {result.why}", flush=True)
    _print_row("all", total)
    sys.exit(bad)


def _print_row(name: str, counts: collections.Counter[str], seconds: float | None = None) -> None:
    numbers = [f"{counts[outcome]:,}" for outcome in OUTCOMES]
    said = "" if seconds is None else f"{seconds:.0f}"
    print("|", " | ".join([name, f"{counts.total():,}", *numbers, said]), "|", flush=True)


def _different(results: list[Result]) -> list[Result]:
    """One of those that say the same but for numbers."""
    by_text = {}
    for result in results:
        letters = "".join(c for c in result.why if not c.isdigit())[-400:]
        by_text.setdefault((result.outcome, letters), result)
    return list(by_text.values())


if __name__ == "__main__":
    main()
