"""A process that holds an output, KIND PATH: says "taken" and lets go when its input ends.

KIND: lock, lease; crash, which leaves a child behind, says its number and is killed; count, which
adds 1 fifty times to the number in PATH/count, while nobody else does.
"""

import contextlib
import os
import pathlib
import signal
import sys
import time

from etils import epath

from lightningdit_jax.lease import Lease
from lightningdit_jax.sole_writer import sole_writer

QUICK = {"renew": 0.2, "expire": 1.0, "settle": 0.05}


@contextlib.contextmanager
def lease(path, name):
    held = Lease(epath.Path(path), {"pid": name}, **QUICK)
    assert held.take() is None
    try:
        yield
    finally:
        held.release()


def lock(path, name="train"):
    return sole_writer(path, name, f"--mode={name}")


def crash(path):
    with lock(path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def count(path):
    """A second one beside it would spoil the number."""
    number, done = pathlib.Path(path) / "count", 0
    while done < 50:
        try:
            with lock(path):
                before = int(number.read_text())
                time.sleep(0.0005)
                number.write_text(str(before + 1))
                done += 1
        except ValueError as error:
            assert "in use" in str(error), error


def main(kind, path):
    if kind in ("crash", "count"):
        {"crash": crash, "count": count}[kind](path)
        return
    with lock(path) if kind == "lock" else lease(path, "first"):
        print("taken", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
