"""One of two processes that see the checkpoints under FOLDER differently; run by test_multihost.py.

Each of FOLDER's workdirs has checkpoints of the steps 10 and 20, both whole.
"""

import pathlib
import sys

import jax

from lightningdit_jax import checkpoint, checkpoint_choice
from lightningdit_jax.parallel.multihost import initialize, is_main_process


def seen(says):
    """What this process finds of step 20; step 10 is whole."""
    checkpoint_choice.defect = lambda path: says() if path.name == "20" else None


def whole():
    return None


def damaged():
    return "it is cut off"


def refuses():
    raise PermissionError("not yours")


def main(folder: pathlib.Path) -> None:
    initialize()
    assert jax.process_count() == 2
    for name, here, there, newest in [
        ("main_sees_damage", damaged, whole, 10),
        ("other_sees_damage", whole, damaged, 20),
        ("other_sees_nothing", whole, refuses, 20),
    ]:
        seen(here if is_main_process() else there)
        assert checkpoint.newest_of_run(folder / name).name == str(newest), name
        checkpoints = checkpoint.TrainingCheckpoints(folder / name, keep=2)
        assert checkpoints.latest_step() == newest, name
        checkpoints.close()

    seen(refuses if is_main_process() else whole)
    try:
        checkpoint.TrainingCheckpoints(folder / "main_sees_nothing", keep=2)
    except (PermissionError, ValueError) as error:
        said = "not yours" if is_main_process() else "the main process cannot go on from"
        assert said in str(error), error
    else:
        raise AssertionError("gone on without what the main process sees")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
