"""Statistics of real images that FID, sFID, precision and recall compare samples with.

python scripts/reference_statistics.py --source=folder --path=IMAGENET/train --size=256 \\
    --inception=ckpts/inception --output=imagenet256.npz

`lightningdit-reference` where the package is installed; --help says more.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from lightningdit_jax.commands.reference_statistics import main

    main()
