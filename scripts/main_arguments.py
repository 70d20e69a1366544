"""Checks main.py's arguments on this machine, before others are rented for them."""

import os
import pathlib
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent


def check_arguments(arguments: Sequence[str]) -> str:
    """Ends with one line where main.py would refuse its config file, a key, a value or a flag.

    Returns the config file. Paths are those of the checkout, as on the hosts, so this changes into
    it.
    """
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    try:
        from ml_collections import config_flags

        import main
        from lightningdit_jax.config import from_dict
    except ImportError as error:
        sys.exit(
            f"error: main.py's arguments cannot be checked here: {error}; run this script with "
            "the Python that `make setup` installs into, .venv/bin/python"
        )
    try:
        main.parse_flags(["main.py", *arguments])
        from_dict(main.CONFIG.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    return config_flags.get_config_filename(main.flags.FLAGS["config"]).partition(":")[0]
