"""Of two and of four processes that train together one dies, or stops."""

import functools
import json
import os
import signal
import socket
import time

from tests import forked_commands
from tests.faults.lab import content
from tests.faults.verdict import LOST, UNCLEAR, Fault, Missed

HEARTBEAT_SECONDS = 10  # instead of the program's 100
# How long the others may live on: the heartbeat, and what it takes to end.
BOUND = 60
STEPS = 24


def quick(seconds):
    """Has the processes miss each other sooner; in the process of the command."""
    from lightningdit_jax.parallel import multihost

    multihost.initialize = functools.partial(multihost.initialize, heartbeat_seconds=seconds)


def together(job, count, when=None, victim=0):
    """The commands of all processes; `when` is that of one of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    commands = []
    for index in range(count):
        environment = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        commands.append(
            job.command(
                environment=environment,
                prepare=["tests.faults.several", "quick", {"seconds": HEARTBEAT_SECONDS}],
                seconds=240,
                when=when or [] if index == victim else [],
            )
        )
    return commands


def the_job(trial, **changes):
    values = {
        "train__num_steps": STEPS,
        "train__checkpoint_every_steps": 5,
        "mesh__data": -1,
        **changes,
    }
    return trial.jobs["train"].changed(**values)


def undisturbed(trial, count):
    def make(folder):
        job = the_job(type(trial)(trial.lab, None, folder))
        answers = [one[-1] for one in forked_commands.run_together(together(job, count))]
        if any(status for status, *_ in answers):
            raise Fault(LOST, f"{count} processes, undisturbed: {answers}")
        (folder / "content").write_text(json.dumps(content(job.output)))

    folder = trial.lab.once(f"{count} processes", make)
    return json.loads((folder / "content").read_text())


def struck(count, number):
    def strike(trial):
        rng = trial.rng
        wanted = undisturbed(trial, count)
        victim, seconds = rng.randrange(count), round(rng.uniform(0, 1.5), 2)
        ended = {}
        trial.what = f"{number.name} to process {victim} of {count}, {seconds} s after step 1"
        # Only the main process says its steps.
        job = the_job(trial, train__num_steps=100_000)
        commands = together(job, count)
        running = [forked_commands.Running(command) for command in commands]
        began, hit = time.monotonic(), None
        while any(one.status is None for i, one in enumerate(running) if i != victim):
            for i, one in enumerate(running):
                if one.status is None and not (i == victim and hit and number == signal.SIGSTOP):
                    one.look()
                    if one.status is not None:
                        ended[i] = time.monotonic()
            if hit is None and "step 1/" in running[0].texts()[0]:
                time.sleep(seconds)
                os.kill(running[victim].pid, number)
                hit = time.monotonic()
            if time.monotonic() - began > 200 or (hit and time.monotonic() - hit > 3 * BOUND):
                break
            time.sleep(0.02)
        resumed = number == signal.SIGSTOP and rng.random() < 0.5
        last = running[victim]
        if last.status is None:
            os.kill(last.pid, signal.SIGCONT if resumed else signal.SIGKILL)
        stop = time.monotonic() + BOUND
        for one in running:
            while one.status is None:
                one.look()
                if time.monotonic() > stop:
                    os.kill(one.pid, signal.SIGKILL)
                time.sleep(0.02)
        answers = [one.answers()[-1] for one in running]
        if hit is None:
            raise Missed
        late = {i: round(t - hit) for i, t in ended.items() if i != victim}
        others = set(range(count)) - {victim}
        if set(late) != others or max(late.values()) > BOUND:
            raise Fault(UNCLEAR, f"ended after {late} s, of {others}: {answers}")
        if any(answers[i][0] == 0 for i in others):
            raise Fault(UNCLEAR, f"status 0: {answers}")
        trial.what += f"; the others end after {max(late.values())} s"
        for one in (job.output / "checkpoints").iterdir():
            if int(one.name.partition(".")[0]) > STEPS:
                raise Missed  # it outran the undisturbed one
        again = the_job(trial)
        after = [one[-1] for one in forked_commands.run_together(together(again, count))]
        if any(status for status, *_ in after):
            raise Fault(LOST, f"again: {[(a[0], a[2][-600:]) for a in after]}")
        trial.same(again, wanted)

    return strike


KINDS = {
    "one of 2 processes dies": (5, struck(2, signal.SIGKILL)),
    "one of 2 processes stops": (3, struck(2, signal.SIGSTOP)),
    "one of 4 processes dies": (2, struck(4, signal.SIGKILL)),
    "one of 4 processes stops": (1, struck(4, signal.SIGSTOP)),
}
