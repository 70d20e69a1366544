"""Injects faults and prints a table of what became of them: python -m tests.faults --help."""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from tests import forked_commands, tiny
from tests.faults import clocks, damage, numbers, several, signals, storage, workers
from tests.faults import lab as labs
from tests.faults.table import table
from tests.faults.verdict import MISSED, SURVIVED, Fault, Injection, Missed

MODULES = (signals, storage, damage, numbers, workers, several, clocks)
KINDS = {kind: entry for module in MODULES for kind, entry in module.KINDS.items()}
# Of the short suite: jobs that need no tokenizer, and kinds that those jobs show.
SHORT_JOBS = ("train", "convert", "convert back", "convert to a workdir")
SHORT_KINDS = (
    "SIGKILL",
    "disk full",
    "clock jumps between",
)
ATTEMPTS = 6  # at a moment that comes before the command is done
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # where one may mount

_LAB = None  # what the processes share, which are forks


def planned(kinds, total):
    """(kind, number) of each injection: the kinds by their shares of so many, mixed."""
    whole = sum(KINDS[kind][0] for kind in kinds)
    counts = {kind: max(1, round(KINDS[kind][0] * total / whole)) for kind in kinds}
    every = [((i + 0.5) / count, kind, i) for kind, count in counts.items() for i in range(count)]
    return [(kind, i) for _, kind, i in sorted(every)]


def inject(seed, kind, number, keep):
    """One injection; again with another moment where it came too late."""
    began = time.monotonic()
    for attempt in range(ATTEMPTS):
        rng = random.Random(f"{seed} {kind} {number} {attempt}")
        folder = _LAB.base.parent / f"{kind.replace(' ', '_')}_{number}_{attempt}"
        trial = labs.Trial(_LAB, rng, folder)
        verdict, why = SURVIVED, ""
        folder.mkdir()
        try:
            KINDS[kind][1](trial)
        except Missed:
            verdict = None
        except Fault as fault:
            verdict, why = fault.verdict, str(fault)
        finally:
            if os.path.ismount(folder):
                subprocess.run(["umount", "-l", folder], check=False)
            if verdict in (None, SURVIVED) or not keep:
                shutil.rmtree(folder, ignore_errors=True)
        if verdict is not None:
            break
    else:
        verdict, why = MISSED, "never came in time"
    seconds = round(time.monotonic() - began, 1)
    return Injection(kind, number, trial.what, verdict, why, seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    whole = sum(count for count, _ in KINDS.values())
    parser.add_argument("--faults", type=int, default=whole, help="how many in all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--processes", type=int, default=2, help="injections at a time")
    parser.add_argument("--output", default="outputs/faults/report.json")
    parser.add_argument("--keep", help="folder for the trials that went wrong, and all programs")
    parser.add_argument("--short", action="store_true", help="one of each of some kinds")
    options = parser.parse_args()
    if options.short:
        options.kinds = list(SHORT_KINDS)
    report = pathlib.Path(options.output).resolve()
    with tempfile.TemporaryDirectory(prefix="faults") as temporary:
        root = pathlib.Path(options.keep or temporary).resolve()
        sys.exit(run(options, root, report))


def run(options, root, report):
    """Status 0 if nothing was lost, wrong or unclear."""
    global _LAB
    forked_commands.import_all()
    trials = root / "trials"
    shutil.rmtree(trials, ignore_errors=True)
    (trials / "base").mkdir(parents=True)
    _LAB = labs.Lab(trials / "base")
    if os.environ["FAULTS_MOUNT"] != "1":
        print(f"nothing can be mounted here: left out are {', '.join(storage.NEED_MOUNTS)}")
        options.kinds = [kind for kind in options.kinds if kind not in storage.NEED_MOUNTS]
    began = time.monotonic()
    if options.short:
        tiny.write_latents(_LAB.base / "latents", count=64, size=8)
    _LAB.make(SHORT_JOBS if options.short else (), again=not options.short)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    done, todo = [], planned(options.kinds, options.faults)
    if options.short:
        todo = [(kind, 0) for kind in options.kinds]
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(options.processes, context) as pool:
        futures = [pool.submit(inject, options.seed, *one, bool(options.keep)) for one in todo]
        for future in concurrent.futures.as_completed(futures):
            done.append(future.result())
            one = done[-1]
            word = "" if one.verdict == SURVIVED else f" {one.verdict.upper()} {one.why}"
            print(
                f"{len(done)}/{len(todo)} {one.kind} {one.number}: {one.what} "
                f"({one.seconds} s){word}",
                flush=True,
            )
    order = list(options.kinds)
    done.sort(key=lambda one: (order.index(one.kind), one.number))
    report.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "seed": options.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "injections": [dataclasses.asdict(one) for one in done],
    }
    report.write_text(json.dumps(content, indent=1) + "\n")
    print(table(done))
    print(f"seed {options.seed}, {content['minutes']} minutes; each injection in {report}")
    return int(any(one.verdict not in (SURVIVED, MISSED) for one in done))


def may_mount():
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def started_anew():
    """In an environment that JAX reads when it is imported, and where one may mount."""
    mounts = may_mount()
    environment = labs.environment() | {"FAULTS_MOUNT": str(int(mounts))}
    command = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    command = [*(NAMESPACE if mounts else ()), *command]
    os.execvpe(command[0], command, os.environ | environment)


if __name__ == "__main__":
    if "FAULTS_MOUNT" not in os.environ:
        started_anew()
    # Names of functions are to be those of the module, whatever started it.
    from tests.faults.__main__ import main as start

    start()
