"""What distances in the features of one network take on the host: seconds, and memory.

    python -m benchmarks.distances --samples 50000 --reference 10000 --dim 1024 --blocks 0

Of random features; --blocks is evaluate.jackknife_blocks.
"""

import argparse
import pathlib
import resource
import time

import numpy as np

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.evaluation.density_coverage import density_coverage
from lightningdit_jax.evaluation.error_bars import random_blocks
from lightningdit_jax.evaluation.frechet import Moments, distance_from
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.mind import mind
from lightningdit_jax.evaluation.mmd import cmmd, kid


def main() -> None:
    """Measures one after another; memory is the most that the process ever had."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    real = rng.standard_normal((options.reference, options.dim), dtype=np.float32)
    drawn = rng.standard_normal((options.samples, options.dim), dtype=np.float32)
    blocks = random_blocks(options.samples, options.blocks) if options.blocks else []
    rows = []

    def frechet() -> None:
        distance = distance_from(Moments.of(real).gaussian)
        if blocks:
            frechet_bars("fd", distance, [drawn], blocks)
        else:
            distance(Moments.of(drawn).gaussian)

    for name, measure in (
        ("fd", frechet),
        ("kid", lambda: kid(real, drawn, blocks)),
        ("mind", lambda: mind(real, drawn, blocks)),
        ("density, coverage", lambda: density_coverage(real, drawn, blocks)),
        ("cmmd", lambda: cmmd(real, drawn, blocks)),
    ):
        began, began_cpu = time.perf_counter(), time.process_time()
        measure()
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append({"name": name, "seconds": seconds, "cpu_seconds": cpu, "peak_gib": most})
        print(f"{name:18s} {seconds:7.1f} s  {cpu:7.1f} s of CPU  {most:.2f} GiB", flush=True)
    if options.output:
        write_json(options.output, rows)


if __name__ == "__main__":
    main()
