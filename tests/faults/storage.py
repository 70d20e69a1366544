"""Storage that fails at a random change of a job's files, or from the start."""

import shutil
import subprocess

from tests.faults.lab import run
from tests.faults.signals import at_change, chosen, goes_on
from tests.faults.verdict import Missed, check_clear, check_refused
from tests.forked_commands import ROOT

STORAGE = 74


def struck(trial, job, action, value):
    """The answer of a job whose storage fails so at a random change."""
    number = trial.rng.randint(1, trial.lab.changes[job.name])
    trial.what = f"{action} {value} in {job.name} at change {number}"
    return run(job, prepare=at_change(trial, number, action, value))


def check_failed(trial, job, answer):
    """It ended with one line that names the path, or was done before."""
    if answer[0] == 0:
        check_clear(answer, job.name)
        return
    # The program's own: a limit on files may be met where a module is imported.
    program = ROOT / "lightningdit_jax"
    check_refused(answer, [STORAGE], [trial.folder, trial.lab.base, program], job.name)


def disk(trial):
    """Makes the trial's folder a small disk in memory."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", trial.folder]
    subprocess.run(command, check=True)


def full(trial):
    disk(trial)
    job = chosen(trial)
    free = trial.rng.choice([0, 0, 4096, 20_000, 100_000])
    answer = struck(trial, job, "fill", [str(trial.folder), free])
    if answer[0] == 0:
        raise Missed
    check_failed(trial, job, answer)
    (trial.folder / "fill").unlink(missing_ok=True)
    goes_on(trial, job)


def read_only(trial):
    disk(trial)
    job = chosen(trial)
    if trial.rng.random() < 0.5:
        trial.what = f"read-only from the start: {job.name}"
        remount(trial, "ro")
        answer = run(job)
    else:
        answer = struck(trial, job, "read_only", str(trial.folder))
    if answer[0] == 0:
        raise Missed
    check_failed(trial, job, answer)
    remount(trial, "rw")
    goes_on(trial, job)


def remount(trial, how):
    subprocess.run(["mount", "-o", f"remount,{how}", trial.folder], check=True)


def vanished(trial):
    """The folder that all is written to is renamed, as a mount goes; then it is there again."""
    job, there = chosen(trial), trial.folder
    answer = struck(trial, job, "vanish", str(there))
    gone = there.with_name(f"{there.name}.gone")
    if not gone.exists():
        raise Missed
    check_failed(trial, job, answer)
    if there.exists():  # made anew
        shutil.rmtree(there)
    gone.rename(there)
    goes_on(trial, job)


def limited(name, values):
    def strike(trial):
        job = chosen(trial)
        answer = struck(trial, job, "limit", [name, trial.rng.choice(values)])
        if answer[0] == 0:
            raise Missed
        check_failed(trial, job, answer)
        goes_on(trial, job)

    return strike


KINDS = {
    "disk full": (40, full),
    "read-only folder": (20, read_only),
    "folder gone": (20, vanished),
    "RLIMIT_FSIZE": (20, limited("RLIMIT_FSIZE", [0, 1, 100, 1000, 10_000])),
    "RLIMIT_NOFILE": (20, limited("RLIMIT_NOFILE", [-6, -3, -1, 0])),
}
NEED_MOUNTS = {"disk full", "read-only folder"}
