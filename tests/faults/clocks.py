"""A wall clock that jumps, amid a job, between two, or while a lease is held."""

import signal
import time

from tests import forked_commands
from tests.faults.lab import run
from tests.faults.signals import at_change, chosen, goes_on
from tests.faults.verdict import UNCLEAR, Fault, check_done, check_refused

JUMPS = (-30 * 365 * 86400, -86400, -3600, -1, 1, 3600, 86400, 30 * 365 * 86400)
# A lease of seconds instead of minutes: of a file system without locks, see moments.py.
QUICK = {"renew": 0.5, "expire": 6.0, "settle": 1.0}


def amid(trial):
    job, seconds = chosen(trial), trial.rng.choice(JUMPS)
    number = trial.rng.randint(1, trial.lab.changes[job.name])
    trial.what = f"by {seconds} s in {job.name} at change {number}"
    answer = run(job, prepare=at_change(trial, number, "jump", seconds))
    check_done(answer, job.name)
    trial.same(job)


def between(trial):
    """A job is killed, and its files are of a future, or of long ago."""
    job, seconds = chosen(trial), trial.rng.choice(JUMPS)
    number = trial.rng.randint(1, trial.lab.changes[job.name])
    trial.what = f"by {seconds} s after {job.name} is killed at change {number}"
    run(job, prepare=at_change(trial, number, "kill", "SIGKILL"))
    if job.name in ("convert", "convert to a workdir") and job.output.exists():
        goes_on(trial, job)
        return
    trial.finished(job, prepare=["tests.faults.moments", "jump", {"seconds": seconds}])


def of_a_lease(trial):
    """Another one comes while the holder lives, then after it is killed; all clocks differ."""
    rng = trial.rng
    here, there, later = (rng.choice(JUMPS) for _ in range(3))
    trial.what = f"leases by clocks that are {here}, {there}, {later} s off"
    job = trial.jobs["train"]
    second = job.command(prepare=without_locks(there))
    long = job.changed(train__num_steps=100_000)
    answers = forked_commands.run(
        long.command(
            prepare=without_locks(here),
            when=[["step 1/", second], [0.2, "SIGKILL"]],
        )
    )
    refused, killed = answers
    check_refused(refused, [2], [job.output], "the second")
    if "in use by --mode=train" not in refused[2] or killed[0] != -signal.SIGKILL:
        raise Fault(UNCLEAR, f"{refused}, {killed}")
    began = time.monotonic()
    answer = run(
        job.changed(train__num_steps=100_000),
        prepare=without_locks(later),
        when=[["step ", "SIGKILL"]],
    )
    if answer[0] != -signal.SIGKILL or time.monotonic() - began < QUICK["expire"]:
        raise Fault(UNCLEAR, f"the lease of a dead one: {answer}")


def without_locks(later):
    return ["tests.faults.moments", "without_locks", {"times": QUICK, "later": later}]


KINDS = {
    "clock jumps in a job": (12, amid),
    "clock jumps between": (10, between),
    "clocks of a lease differ": (5, of_a_lease),
}
