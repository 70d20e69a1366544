"""main.py in two processes of one job: a signal to one, a workdir that is in use."""

import signal
import time

import pytest

from lightningdit_jax import checkpoint
from tests import tiny
from tests.parallel import processes
from tests.parallel.processes import finish, kill_all, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"))


def start(workdir, latents):
    changes = {
        "data__path": latents,
        "train__log_every_steps": 1,
        "train__num_steps": 100_000,
        "train__checkpoint_every_steps": 99_999,
    }
    flags = ["--config=configs/digits_dit.py", f"--workdir={workdir}", *tiny.flags(**changes)]
    return processes.start("main", *flags, processes=2, devices=1)


def test_sigint_to_one_saves_and_ends_all(tmp_path, latents):
    job = start(tmp_path, latents)
    wait_for("step 3/", job[0])
    job[1].send_signal(signal.SIGINT)
    statuses, outputs = finish(job)
    assert statuses == [75, 75], "\n".join(outputs)
    assert "SIGINT: ending when this step is done and saved" in outputs[1]
    assert "saved step" in outputs[0] and "Traceback" not in "".join(outputs)
    assert checkpoint.find_checkpoint(str(tmp_path)).name in outputs[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked", [0, 1])
def test_before_the_first_step_all_end_at_once(tmp_path, latents, asked, number):
    job = start(tmp_path, latents)
    wait_for("plan for", job[0])
    began = time.monotonic()
    job[asked].send_signal(number)
    statuses, outputs = finish(job)
    assert statuses == [75, 75], "\n".join(outputs)
    assert time.monotonic() - began < 30
    assert f"{number.name}: ended; the same command goes on" in outputs[asked]
    said = f"ending, because another process does: process {asked}: {number.name}: ended"
    assert said in outputs[1 - asked]
    assert "Traceback" not in "".join(outputs)


def test_a_workdir_in_use_is_refused_in_all(tmp_path, latents):
    first = start(tmp_path, latents)
    wait_for("step 1/", first[0])
    statuses, outputs = finish(start(tmp_path, latents))
    kill_all(first)
    assert statuses == [2, 1], "\n".join(outputs)
    said = f"{tmp_path} is in use by --mode=train, process {first[0].pid} on "
    assert said in outputs[0] and said in outputs[1]
    assert "Traceback" not in "".join(outputs)
