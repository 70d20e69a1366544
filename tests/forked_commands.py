"""main.py with each of several lists of arguments, in forks of one process.

    python -m tests.forked_commands < LIST.json

Starting Python and importing JAX is most of what a command that fails at once takes; here all of
them share that. The list holds commands, whose answers are [exit status, standard output, standard
error], and stories, lists of what is done one after another, whose answers are lists of those:

    {"arguments": [...], "program": "main.py", "limits": {"RLIMIT_NOFILE": 40},
     "when": [["a text of its output", "SIGINT"], ["another", {"arguments": [...]}]]}
    {"shell": "mount ..."}

when: what is done as soon as a text is there, or files that a pattern, which begins with /,
matches, or, for "listening", SIGTERM would be caught: a signal is sent, or another command runs
meanwhile, whose answer stands before.
"""

import glob
import importlib
import json
import multiprocessing
import os
import pathlib
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).parent.parent
# What main.py imports once it knows the mode.
MODULES = (
    "training.run",
    "inference.quality.in_training",
    "inference.sampling.job",
    "inference.extraction.job",
    "inference.quality.job",
    "inference.quality.sweep",
    "convert.files",
)
SECONDS = 120  # a command that takes longer hangs


def answers(of, environment, *, within=()):
    """What a process of this module answers to a list. within: a command that it runs in."""
    answer = subprocess.run(
        [*within, sys.executable, "-m", "tests.forked_commands"],
        input=json.dumps(of),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=500,
        check=True,
    )
    return json.loads(answer.stdout)


def execute(command):
    """Runs a command in this process, which is a fork, and ends it."""
    status = 1
    try:
        for name, value in command.get("limits", {}).items():
            resource.setrlimit(getattr(resource, name), (value, value))
        sys.argv = [str(ROOT / command.get("program", "main.py")), *command["arguments"]]
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_there(sign, pid, texts):
    if sign == "listening":
        caught = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
        return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)
    return bool(glob.glob(sign)) if sign.startswith("/") else sign in "".join(texts)


def run(command):
    """The answers of a command: of those that ran meanwhile, and its own."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            execute(command)

        def texts():
            return [os.pread(file.fileno(), 2**24, 0).decode() for file in (out, err)]

        answers, ended, stop = [], 0, time.monotonic() + SECONDS
        waiting = list(command.get("when", ()))
        while not ended:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if waiting and not ended and is_there(waiting[0][0], pid, texts()):
                action = waiting.pop(0)[1]
                if isinstance(action, str):
                    os.kill(pid, signal.Signals[action])
                else:
                    answers += run(action)
            if time.monotonic() > stop:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        return [*answers, [os.waitstatus_to_exitcode(status), *texts()]]


def tell(item):
    """The answer of a command, or the answers of a story."""
    if isinstance(item[0], str):
        return run({"arguments": item})[0]
    answers = []
    for command in item:
        if "shell" in command:
            subprocess.run(command["shell"], shell=True, check=True)
        else:
            answers += run(command)
    return answers


def main():
    """Each command has a process of its own, two at a time."""
    os.chdir(ROOT)
    for module in MODULES:
        importlib.import_module(f"lightningdit_jax.{module}")
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(tell, json.load(sys.stdin), chunksize=1)))


if __name__ == "__main__":
    main()
