"""main.py with each of several lists of arguments, in forks of one process.

    python -m tests.forked_commands < LIST.json

Starting Python and importing JAX is most of what a command that fails at once takes; here all of
them share that. The list holds commands, whose answers are [exit status, standard output, standard
error], and stories, lists of what is done one after another, whose answers are lists of those:

    {"arguments": [...], "program": "main.py", "limits": {"RLIMIT_NOFILE": 40},
     "environment": {"NAME": "value"}, "prepare": ["module", "function", {"its": "arguments"}],
     "when": [["a text of its output", "SIGINT"], ["another", {"arguments": [...]}]]}
    {"shell": "mount ..."}

when: what is done as soon as a text is there, or files that a pattern, which begins with /,
matches, or, for "listening", SIGTERM would be caught, or so many seconds after what stands before:
a signal is sent, or another command runs meanwhile, whose answer stands before, or, where this is
used from Python, a function is called with the number of the process. prepare: what is called in
the process of the command first. The status -SIGXCPU is that of a command that hung.
"""

import contextlib
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
import time
import traceback

import jax

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


def answers(of, environment):
    """What a process of this module answers to a list."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.forked_commands"],
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
        os.environ.update(command.get("environment", {}))
        if "prepare" in command:
            module, function, arguments = command["prepare"]
            getattr(importlib.import_module(module), function)(**arguments)
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
        if jax.distributed.is_initialized():  # what JAX does when a program ends
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()
        os._exit(status)


def is_there(sign, pid, texts):
    if sign == "listening":
        caught = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
        return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)
    return bool(glob.glob(sign)) if sign.startswith("/") else sign in "".join(texts)


class Running:
    """A command that was started; `status` once it has ended, then `answers`."""

    def __init__(self, command):
        # Pipes, which no limit on files reaches.
        self._pipes, self._texts = (os.pipe(), os.pipe()), [b"", b""]
        self._waiting, self._meanwhile = list(command.get("when", ())), []
        self._began = self._since = time.monotonic()
        self._seconds = command.get("seconds", SECONDS)
        self.hung, self.status = False, None
        self.pid = os.fork()
        if self.pid == 0:
            for number, (_, writer) in enumerate(self._pipes, 1):
                os.dup2(writer, number)
            execute(command)
        for reader, writer in self._pipes:
            os.close(writer)
            os.set_blocking(reader, False)

    def texts(self):
        """What it said so far: [standard output, standard error]."""
        for i, (reader, _) in enumerate(self._pipes):
            with contextlib.suppress(BlockingIOError):
                while read := os.read(reader, 2**16):
                    self._texts[i] += read
        return [text.decode(errors="replace") for text in self._texts]

    def look(self):
        """Does what is due, and sees whether it has ended."""
        self.texts()  # or its pipes are full
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        if ended:
            self.status = -signal.SIGXCPU if self.hung else os.waitstatus_to_exitcode(status)
            return
        if self._waiting and self._is_due(self._waiting[0][0]):
            action = self._waiting.pop(0)[1]
            self._since = time.monotonic()
            if isinstance(action, str):
                os.kill(self.pid, signal.Signals[action])
            elif callable(action):
                action(self.pid)
            else:
                self._meanwhile += run(action)
        if time.monotonic() - self._began > self._seconds:
            self.hung = True
            os.kill(self.pid, signal.SIGKILL)

    def _is_due(self, sign):
        if isinstance(sign, str):
            return is_there(sign, self.pid, self.texts())
        return time.monotonic() - self._since >= sign

    def answers(self):
        """Those of commands that ran meanwhile, and its own."""
        answers = [*self._meanwhile, [self.status, *self.texts()]]
        for reader, _ in self._pipes:
            os.close(reader)
        return answers


def run(command):
    """The answers of a command: of those that ran meanwhile, and its own."""
    return run_together([command])[0]


def run_together(commands):
    """The answers of each of several commands that are processes at the same time."""
    running = [Running(command) for command in commands]
    while any(one.status is None for one in running):
        for one in running:
            if one.status is None:
                one.look()
        time.sleep(0.01)
    return [one.answers() for one in running]


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


def import_all():
    """What the commands import, before they are forked."""
    os.chdir(ROOT)
    for module in MODULES:
        importlib.import_module(f"lightningdit_jax.{module}")


def main():
    """Each command has a process of its own, two at a time."""
    import_all()
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(tell, json.load(sys.stdin), chunksize=1)))


if __name__ == "__main__":
    main()
