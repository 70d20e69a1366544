"""main.py with each of several lists of arguments, in forks of one process.

    python -m tests.forked_commands < LISTS.json

Starting Python and importing JAX is most of what a command that fails at once takes; here all of
them share that. Prints a list of [exit status, standard output, standard error].
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
# What main.py imports once it knows the mode.
MODULES = (
    "training.run",
    "inference.quality.in_training",
    "inference.sampling.job",
    "inference.quality.job",
)


def run(arguments):
    """Exit status and output of `python main.py *arguments`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = [str(ROOT / "main.py"), *arguments]
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                status = 0
            except SystemExit as end:
                status = end.code
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
        return [status, *texts]


def main():
    """Each command has a process of its own, two at a time."""
    os.chdir(ROOT)
    for module in MODULES:
        importlib.import_module(f"lightningdit_jax.{module}")
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(run, json.load(sys.stdin), chunksize=1)))


if __name__ == "__main__":
    main()
