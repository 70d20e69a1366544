"""Real commands that are interrupted and meet each other; of the suite of faults a short version.

After each the same command goes on, and ends with the bits of one that met nothing.
"""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import tiny
from tests.forked_commands import answers
from tests.test_main import ROOT, environment, final_arrays, records

ENDING = "{}: ending when this step is done and saved; a second one ends at once\n"
GOES_ON = "the same command goes on from the newest checkpoint, or begins again without one"


def tell(stories):
    """The answers of each story, see forked_commands."""
    return answers(stories, environment(devices=1))


def training(workdir, latents, when=(), **changes):
    changes = {"data__path": latents, "train__log_every_steps": 1, "train__num_steps": 8} | changes
    flags = ["--config=configs/digits_dit.py", f"--workdir={workdir}", *tiny.flags(**changes)]
    return {"arguments": flags, "when": when}


def assert_same_run(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir), final_arrays(other))
    assert records(workdir) == records(other)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"))


@pytest.mark.slow
def test_a_training_that_is_interrupted_and_met_by_another(tmp_path, latents):
    both, met = tmp_path / "both", tmp_path / "met"
    # The checkpoints before are far apart, so what a signal saves is needed.
    rare = {"train__checkpoint_every_steps": 50}
    second = training(met, latents)
    results = tell(
        [
            [
                training(both, latents, [["plan for", "SIGTERM"]], **rare),
                training(both, latents, [["step 3/", "SIGINT"]], **rare),
                training(both, latents, **rare),
            ],
            [
                training(met, latents, [["step 3/", second], ["step 3/", "SIGKILL"]], **rare),
                training(met, latents, **rare),
            ],
        ]
    )
    (compiling, stepping, ended), (refused, killed, restarted) = results

    assert compiling[0] == 75 and compiling[2] == f"SIGTERM: ended; {GOES_ON}\n"
    assert "first step" not in compiling[1]
    assert stepping[0] == 75 and stepping[2] == ENDING.format("SIGINT")
    assert "ending, as SIGINT asks; restart to go on" in stepping[1].splitlines()[-1]
    assert ended[0] == 0 and "resumed from step" in ended[1]
    assert refused[0] == 2 and refused[2].count("\n") == 1
    assert f"{met} is in use by --mode=train, process " in refused[2]
    assert killed[0] == -9
    # Without a checkpoint it began again: what the other went on with is compared with it.
    assert restarted[0] == 0 and "resumed" not in restarted[1]
    assert not list(met.glob(".*.lock"))
    assert_same_run(both, met)


def test_one_fault_of_each_of_some_kinds(tmp_path):
    """The short version of `make test-faults`, which covers every job and kind."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.faults", "--short", f"--output={report}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    verdicts = [one["verdict"] for one in json.loads(report.read_text())["injections"]]
    assert len(verdicts) >= 2 and set(verdicts) == {"survived"}
    assert f"| all | {len(verdicts)} | {len(verdicts)} | 0 | 0 | 0 |" in done.stdout


@pytest.mark.slow
def test_what_a_terminal_sends_to_all_ends_only_the_main_process(tmp_path, latents):
    long = {"train__num_steps": 100_000, "train__checkpoint_every_steps": 99_999}
    command = training(tmp_path / "w", latents, data__num_workers=2, **long)["arguments"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(devices=1),
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)  # once the workers have ended too
    assert process.returncode == 75 and errors == ENDING.format("SIGINT")
    assert "ending, as SIGINT asks; restart to go on" in out
