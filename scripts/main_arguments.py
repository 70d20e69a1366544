"""Checks main.py's arguments on this machine, before others are rented for them."""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent


def check_arguments(arguments: Sequence[str]) -> str:
    """Ends with one line where main.py would refuse its arguments before it meets its devices.

    Returns --config as it was given, without a row: a config file, also of one that was given by
    name, or a workdir. Paths are those of the checkout, as on the hosts, so this changes into it.
    """
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    try:
        return _checked(arguments)
    except KeyboardInterrupt as interrupt:  # imports take seconds
        print(f"ended by {str(interrupt) or 'SIGINT'}", file=sys.stderr)
        sys.exit(130)


def _checked(arguments: Sequence[str]) -> str:
    try:
        from lightningdit_jax.commands import main
        from lightningdit_jax.commands.named_configs import config_file
    except ImportError as error:
        refuse(
            f"main.py's arguments cannot be checked here: {error}; run this script with "
            "the Python that `make setup` installs into, .venv/bin/python"
        )
    try:
        argv = ["main.py", *arguments]
        main.checked(main.parse_flags(argv))
        given = main.read_arguments(argv)[0].removeprefix("--config=")
    except ValueError as error:
        refuse(str(error))
    except Exception as error:  # a bucket that cannot be read, which has errors of many kinds
        if not any("://" in argument for argument in arguments):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        refuse(
            "the workdir's config.json is needed to check main.py's arguments, and cannot "
            f"be read from here: {reason}; for gs:// install the extra `gcs`"
        )
    path = given if "://" in given else given.partition(":")[0]
    named = "" if "://" in path or os.path.exists(path) else config_file(path)
    return f"configs/{pathlib.Path(named).name}" if named else path


def check_lasting(machine: str) -> None:
    """Ends with one line where the workdir, checked before, would go with the machine's disks."""
    from lightningdit_jax.commands import main

    workdir = main.WORKDIR.value
    if "://" not in workdir and not pathlib.Path(workdir).is_absolute():
        refuse(
            f"--workdir={workdir} would lie on the disks of {machine}, and go with them; "
            "expected gs://BUCKET/FOLDER, or the absolute path of a folder that is mounted there"
        )


def refuse(reason: str) -> NoReturn:
    """Ends with one line and main.py's status for a command that is refused."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)
