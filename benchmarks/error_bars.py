"""How far error bars of a Fréchet distance can be trusted: sets of Gaussians of known distance.

    python -m benchmarks.error_bars --repeats 200

Draws sets of samples again and again and prints, beside the true distance, what the distance of a
set is on average and how it varies; what the jackknife of one set takes that variation for; how
often its interval and the bootstrap's (2.5 to 97.5 % of 100 resamples) hold the average; and the
same of the distance extrapolated to infinitely many samples, whose interval is to hold the truth.
Half a minute of one core.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.evaluation.error_bars import random_blocks
from lightningdit_jax.evaluation.frechet import Gaussian, Moments, distance_from
from lightningdit_jax.evaluation.frechet_errors import frechet_bars

BLOCKS, RESAMPLES = 50, 100


@dataclasses.dataclass(frozen=True)
class Case:
    """Samples in sets of `count` whose first mean is shifted and whose variances are those of the
    reference times 1 - spread to 1 + spread. falling: the reference's are 1 / i, not all 1.
    """

    name: str
    dim: int
    count: int
    shift: float
    spread: float
    falling: bool = False

    @property
    def variances(self) -> np.ndarray:
        """Of the reference. [dim]."""
        return 1 / np.arange(1, self.dim + 1) if self.falling else np.ones(self.dim)

    @property
    def scales(self) -> np.ndarray:
        """Deviations of the samples. [dim]."""
        factors = np.linspace(1 - self.spread, 1 + self.spread, self.dim)
        return np.sqrt(self.variances * factors)

    @property
    def truth(self) -> float:
        """The distance of infinitely many."""
        return float(self.shift**2 + np.square(self.scales - np.sqrt(self.variances)).sum())

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A set. [count, dim]."""
        samples = self.scales * rng.normal(size=(self.count, self.dim))
        samples[:, 0] += self.shift
        return samples


CASES = (
    Case("8 dimensions, 400 samples", 8, 400, 0.3, 0.3),
    Case("the same, no distance at all", 8, 400, 0.0, 0.0),
    Case("45 falling variances, 720 samples", 45, 720, 0.3, 0.3, falling=True),
)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One row."""
    rng, blocks = np.random.default_rng(0), random_blocks(case.count, BLOCKS)
    distance = distance_from(Gaussian(np.zeros(case.dim), np.diag(case.variances)))
    found, resampled = [], []
    for _ in range(repeats):
        samples = case.draw(rng)
        found.append(frechet_bars("fid", distance, [samples], blocks))
        rows = rng.integers(case.count, size=(RESAMPLES, case.count))
        distances = [distance(Moments.of(samples[r]).gaussian) for r in rows]
        resampled.append(np.percentile(distances, [2.5, 97.5]))
    values, infinite = (
        np.array([bars[n].value for bars in found]) for n in ("fid", "fid_infinity")
    )

    def covered(intervals: list, target: float) -> float:
        return float(np.mean([low <= target <= high for low, high in intervals]))

    mean = float(values.mean())
    return {
        "case": case.name,
        "truth": case.truth,
        "mean": mean,
        "deviation": float(values.std(ddof=1)),
        "jackknife_error": float(np.mean([b["fid"].standard_error for b in found])),
        "jackknife_covers": covered([b["fid"].interval for b in found], mean),
        "bootstrap_covers": covered(resampled, mean),
        "infinity_mean": float(infinite.mean()),
        "infinity_covers": covered([b["fid_infinity"].interval for b in found], case.truth),
    }


def main() -> None:
    """All cases, printed as a table and written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    print(
        "| Gaussians | true distance | mean of sets | deviation of sets | jackknife's error | its "
        "interval holds the mean | bootstrap's | mean extrapolated | its interval holds the truth |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for case in CASES:
        rows.append(row := measure(case, options.repeats))
        cells = [
            f"{100 * value:.0f} %" if name.endswith("covers") else f"{value:.4f}"
            for name, value in row.items()
            if name != "case"
        ]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)
    if options.output:
        write_json(options.output, rows)


if __name__ == "__main__":
    main()
