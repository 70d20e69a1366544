"""A yaml file of the LightningDiT release -> one of our config files that does the same.

python scripts/import_release_config.py THEIR.yaml --output=configs/mine.py

`lightningdit-import-config` where the package is installed; --help says more.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from lightningdit_jax.commands.import_release_config import main

    main()
