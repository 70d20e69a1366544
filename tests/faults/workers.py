"""Processes that read data and die, or hang."""

import json
import os
import pathlib
import signal
import time

from tests.faults.lab import content, run
from tests.faults.verdict import UNCLEAR, Fault, Missed, check_clear, lines

# Instead of the program's ten minutes; they start Python and import the program in it.
HANGS_SECONDS = 45
COMMAND_SECONDS = 400


def children(pid):
    """Processes that read data: those of a process that were not forked, but started anew."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def quick(seconds):
    """Has the program wait no longer than this for a batch; in the process of the command."""
    from lightningdit_jax.data import workers

    workers.HANGS_SECONDS = seconds


def struck(number, said):
    def strike(trial):
        rng, hit = trial.rng, []

        def act(pid):
            time.sleep(rng.uniform(0, 0.3))
            every = children(pid)
            for child in rng.sample(every, rng.randint(1, len(every))) if every else ():
                os.kill(child, number)
                hit.append(child)

        count = rng.choice([1, 2])
        trial.what = f"{number.name} to some of {count}"
        job = trial.jobs["train"].changed(
            data__num_workers=count,
            data__prefetch_batches=2,
            train__num_steps=40,
            train__checkpoint_every_steps=20,
        )
        prepare = ["tests.faults.workers", "quick", {"seconds": HANGS_SECONDS}]
        more = {"prepare": prepare} if number == signal.SIGSTOP else {}
        answer = run(job, when=[["step 1/", act]], seconds=COMMAND_SECONDS, **more)
        check_clear(answer, "training")
        if not hit or (answer[0] == 0 and not any(said in line for line in lines(answer[2]))):
            raise Missed
        if answer[0] != 0:
            raise Fault(UNCLEAR, f"status {answer[0]}: {answer[2][-500:]!r}")
        trial.same(job, of_threads(trial, job), "training goes on by itself")

    return strike


def of_threads(trial, job):
    """What the same training makes whose data threads read."""

    def make(folder):
        alone = (
            type(trial)(trial.lab, None, folder)
            .jobs["train"]
            .changed(train__num_steps=40, train__checkpoint_every_steps=20)
        )
        run(alone)
        (folder / "content").write_text(json.dumps(content(alone.output)))

    return json.loads((trial.lab.once("read by threads", make) / "content").read_text())


KINDS = {
    "a data worker dies": (5, struck(signal.SIGKILL, "was ended by SIGKILL")),
    "a data worker hangs": (3, struck(signal.SIGSTOP, "no batch came")),
}
