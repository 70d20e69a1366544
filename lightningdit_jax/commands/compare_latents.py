"""Compares two folders of latents: rows, labels, values, statistics.

python scripts/compare_latents.py FOLDER_A FOLDER_B --tolerance=1e-4

Rows are compared in order. Exit status 1 if they differ by more than the tolerance.
"""

import argparse
import sys

import numpy as np

from lightningdit_jax.commands.option_names import in_options
from lightningdit_jax.errors import counted

BLOCK = 1_000


def main() -> None:
    """Prints what differs and ends with a verdict."""
    from lightningdit_jax.data.latents import LatentShards, load_stats

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs=2, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference")
    options = parser.parse_args()
    try:
        a, b = (LatentShards(folder) for folder in options.folders)
        stats = [load_stats(folder) for folder in options.folders]
    except (ValueError, OSError) as error:
        print(f"error: {in_options(error, path='FOLDER')}", file=sys.stderr)
        sys.exit(2)
    if len(a) != len(b) or a.shape != b.shape:
        both = [f"{counted(len(shards), 'latent')} {shards.shape}" for shards in (a, b)]
        print(f"different: {' and '.join(both)}")
        sys.exit(1)
    labels = int((a.labels != b.labels).sum())
    print(f"{counted(len(a), 'latent')} {a.shape} in both, {labels:,} labels differ")
    largest = np.inf if labels else 0.0
    for name, flipped in (("latents", False), ("latents_flip", True)):
        worst, total = 0.0, 0.0
        for start in range(0, len(a), BLOCK):
            indices = np.arange(start, min(start + BLOCK, len(a)))
            flip = np.full(len(indices), flipped)
            difference = np.abs(a.read(indices, flip) - b.read(indices, flip))
            worst = np.maximum(worst, difference.max())  # a NaN stays, unlike with max()
            total += difference.sum(dtype=np.float64)
        mean = total / (len(a) * np.prod(a.shape))
        print(f"{name:14s} largest difference {worst:.3g}, mean {mean:.3g}")
        largest = np.maximum(largest, worst)
    for name in ("mean", "std"):
        difference = np.abs(np.subtract(*(getattr(s, name) for s in stats))).max()
        print(f"{name:14s} largest difference {difference:.3g}")
        largest = np.maximum(largest, difference)
    same = bool(largest <= options.tolerance)
    print("same" if same else "different", f"within {options.tolerance:g}")
    sys.exit(int(not same))
