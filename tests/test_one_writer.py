"""Who holds an output, on a disk and in an object store, whatever became of the one before."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from lightningdit_jax.lease import Lease
from lightningdit_jax.sole_writer import sole_writer
from tests.holding_process import QUICK, lease, lock


def start(kind, path):
    command = [sys.executable, "-m", "tests.holding_process", kind, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


@pytest.fixture
def holder():
    """Starts another process that holds something; it ends with the test at the latest."""
    started = []

    def holding(kind, path):
        started.append(start(kind, path))
        assert started[-1].stdout.readline() == "taken\n"
        return started[-1]

    yield holding
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_holds_it(tmp_path, holder):
    folder = tmp_path / "runs" / "w"
    process = holder("lock", folder)
    said = rf"w is in use by --mode=train, process {process.pid} on \S+, since \d{{4}}-.* UTC; wait"
    with pytest.raises(ValueError, match=said), lock(folder):
        pass
    with lock(folder, "sample"):  # another output
        pass
    process.communicate()
    with lock(folder):
        assert json.loads((folder / ".train.lock").read_text())["pid"] == os.getpid()
    assert not any(tmp_path.iterdir()), "nothing is left of what wrote nothing"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_crash_leaves_nothing_in_the_way(tmp_path, holder, number):
    process = holder("lock", tmp_path)
    process.send_signal(number)
    process.wait()
    assert (tmp_path / ".train.lock").exists()
    with lock(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_children_of_a_crashed_one_do_not_hold_it(tmp_path):
    process = start("crash", tmp_path)
    child = int(process.stdout.readline())
    try:
        assert process.wait() == -signal.SIGKILL
        with lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_one_of_many_at_once_has_it(tmp_path):
    """Also while those that end remove the file that the others have just opened."""
    (tmp_path / "count").write_text("0")
    processes = [start("count", tmp_path) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 3
    assert (tmp_path / "count").read_text() == "150"


@pytest.mark.parametrize("needed", [True, False])
def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path, needed):
    def refuse(*arguments):
        raise OSError(30, os.strerror(30), arguments[0])

    monkeypatch.setattr(os, "open", refuse)
    said = pytest.raises(OSError, match=r"\.x\.lock: Read-only .* \(EROFS\)")
    with said if needed else contextlib.nullcontext():  # noqa: SIM117
        with sole_writer(tmp_path, "x", "x", needed=needed):
            pass


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(ValueError, match=r"w is a file; expected a folder"), lock(tmp_path / "w"):
        pass


def test_a_lease_that_is_renewed_is_refused_and_a_dead_one_taken(tmp_path, holder):
    path = tmp_path / "lease"
    process = holder("lease", path)
    assert Lease(epath.Path(path), {}, **QUICK).take()["pid"] == "first"
    process.kill()
    process.wait()
    began = time.monotonic()
    with lease(path, "second"):
        assert time.monotonic() - began > QUICK["expire"]
        assert json.loads(path.read_text())["pid"] == "second"
    assert not path.exists()
    began = time.monotonic()
    with lease(path, "third"):  # nothing to wait for
        assert time.monotonic() - began < QUICK["expire"]


def test_clocks_are_not_compared(tmp_path):
    path = tmp_path / "lease"
    path.write_text(json.dumps({"pid": 1, "since": "2999-01-01", "token": "x", "renewed": 3}))
    os.utime(path, (2**33, 2**33))
    with lease(path, "next"):
        pass


def test_of_many_that_find_no_lease_one_has_it(tmp_path):
    # Longer than any of them may take between looking and writing, on a busy machine.
    times = QUICK | {"settle": 1.0, "expire": 5.0}
    leases = [Lease(epath.Path(tmp_path / "lease"), {"pid": i}, **times) for i in range(5)]
    answers = [None] * len(leases)

    def take(i):
        answers[i] = leases[i].take()

    threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = answers.index(None)
    assert answers.count(None) == 1
    assert {answer["pid"] for answer in answers if answer} == {winner}
    leases[winner].release()


def test_one_that_lost_its_lease_ends(tmp_path, holder):
    path = tmp_path / "lease"
    process = holder("lease", path)
    for _ in range(200):  # it was cut off while another took it, and came back
        path.write_text(json.dumps({"pid": 7, "token": "another"}))
        time.sleep(0.1)
        if process.poll() is not None:
            break
    assert process.returncode == 74
    assert json.loads(path.read_text())["pid"] == 7
