"""Compares two folders of latents: rows, labels, values, statistics.

python scripts/compare_latents.py FOLDER_A FOLDER_B --tolerance=1e-4

`lightningdit-compare-latents` where the package is installed; --help says more.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from lightningdit_jax.commands.compare_latents import main

    main()
