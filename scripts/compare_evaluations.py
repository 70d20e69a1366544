"""Compares evaluations: do numbers differ by more than the spread among samples?

python scripts/compare_evaluations.py A/evaluation.json B/evaluation.json

`lightningdit-compare-evaluations` where the package is installed; --help says more.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from lightningdit_jax.commands.compare_evaluations import main

    main()
