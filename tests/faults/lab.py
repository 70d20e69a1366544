"""Runs jobs in forks of this process, and knows what each makes undisturbed."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import time

from tests import forked_commands
from tests.faults.jobs import jobs
from tests.faults.verdict import Fault, check_clear, check_done, check_same

UNFINISHED = ".orbax-checkpoint-tmp"


class Lab:
    """What all trials share; read, never written to, once it is made.

    base: folder of everything undisturbed. wanted: content by job. seconds, changes: how long each
    job takes, and how many changes of files it makes.
    """

    def __init__(self, base):
        self.base = pathlib.Path(base)
        self.wanted, self.seconds, self.changes = {}, {}, {}

    def make(self, names=(), again=True):
        """Runs the jobs, of those names, as a user does, one after another.

        again: the first time, which may have to compile, is not the one that is timed.
        """
        for name, job in jobs(self.base, self.base).items():
            if names and name not in names:
                continue
            self._make(name, job, again)

    def _make(self, name, job, again):
        count = self.base.parent / f"count {name}"
        arguments = {"under": f"{self.base}/", "into": str(count)}
        watched = ["tests.faults.moments", "counted", arguments]
        if again:
            warm = jobs(self.base, self.base / "warm")[name]
            check_done(run(warm), f"{name}, for the first time")
        began = time.monotonic()
        check_done(run(job, prepare=watched), f"{name}, undisturbed")
        self.seconds[name] = time.monotonic() - began
        self.changes[name] = int(count.read_text())
        self.wanted[name] = content(job.output)

    def once(self, name, make):
        """A folder that make(folder) fills, the first time that it is asked for."""
        folder = self.base / "once" / name
        while not (folder / "made").exists():
            try:
                folder.mkdir(parents=True)
            except FileExistsError:  # another process makes it
                time.sleep(0.2)
                continue
            try:
                make(folder)
            except BaseException:
                shutil.rmtree(folder)
                raise
            (folder / "made").touch()
        return folder


@dataclasses.dataclass
class Trial:
    """One injection: what it may use, and what it says of itself."""

    lab: Lab
    rng: random.Random
    folder: pathlib.Path
    what: str = ""

    @property
    def jobs(self):
        return jobs(self.lab.base, self.folder)

    def finished(self, job, wanted=None, **more):
        """Runs a job to its end; what it made is what it makes undisturbed."""
        what = f"{job.name}, again"
        check_done(run(job, **more), what)
        self.same(job, wanted, what)

    def same(self, job, wanted=None, what=""):
        """What a job made is what it makes undisturbed, and nothing is left beside it."""
        check_same(content(job.output), wanted or self.lab.wanted[job.name], what or job.name)
        left = [path for path in self.folder.rglob("*") if is_left_over(path)]
        if left:
            raise Fault("lost", f"{what}: left behind: {[p.name for p in left]}")


def is_left_over(path):
    hidden = path.name.startswith(".") and path.suffix in (".tmp", ".lock", ".new", ".former")
    return hidden or UNFINISHED in path.name


def run(job, **more):
    """The answer of a job: status, standard output, standard error."""
    return forked_commands.run(job.command(**more))[-1]


def content(path):
    """See content.py."""
    arguments = {"program": "tests/faults/content.py", "arguments": [str(path)]}
    answer = forked_commands.run(arguments)[-1]
    if answer[0] != 0:
        raise Fault("lost", f"what {path} holds cannot be read: {answer[2][-800:]}")
    check_clear(answer, f"reading {path}")
    return json.loads(answer[1])


def environment():
    """What commands are run with: one device, and programs that are compiled once."""
    from tests.xla_flags import xla_flags

    cache = str(forked_commands.ROOT / ".cache" / "jax-faults")
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(1),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
