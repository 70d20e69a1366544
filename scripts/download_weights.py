"""Downloads a published release from the Hugging Face hub and converts it.

python scripts/download_weights.py vavae-f16d32-dinov2 lightningdit-xl-64ep --dst ckpts

`lightningdit-download` where the package is installed; --help says more.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from lightningdit_jax.commands.download_weights import main

    main()
