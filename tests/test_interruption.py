"""What SIGINT and SIGTERM do to a process, whatever its main thread does."""

import os
import signal
import subprocess
import sys
import time

import pytest

START = """
import hashlib, time
from lightningdit_jax.interruption import INTERRUPTION
INTERRUPTION.listen()
INTERRUPTION.kept = "all is kept"
"""
READY = "print('ready', flush=True)\n"
# In C, without the interpreter's lock and blind to signals, as a compiler.
IN_C = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
IN_PYTHON = "while True: time.sleep(0.01)\n"
ENDED = "{}: ended; all is kept\n"
ASKED = "{}: ending when this step is done and saved; a second one ends at once\n"


def end(code, *signals, gap=0.0):
    """Exit status and error output of a program that gets signals, and after how long it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(gap)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", [IN_C, IN_PYTHON])
def test_the_first_ends_where_nothing_is_lost(work, number):
    status, errors, seconds = end(READY + work, number)
    assert (status, errors) == (75, ENDED.format(number.name))
    assert seconds < 5


def test_it_waits_until_all_is_saved():
    saved = "began = time.time(); INTERRUPTION.end_when(lambda: time.time() > began + 0.6)\n"
    status, errors, seconds = end(saved + READY + IN_C, signal.SIGTERM)
    assert (status, errors) == (75, ASKED.format("SIGTERM") + ENDED.format("SIGTERM"))
    assert seconds > 0.4


def test_who_claims_the_end_is_left_to_it():
    code = f"{READY}while not INTERRUPTION.claimed(): time.sleep(0.01)\ntime.sleep(0.2)"
    status, errors, _ = end(code, signal.SIGINT)
    # Before it was claimed, in the same instant, it may have ended.
    assert (status, errors) in [(0, ASKED.format("SIGINT")), (75, ENDED.format("SIGINT"))]


@pytest.mark.parametrize("work", [IN_C, IN_PYTHON])
def test_the_second_ends_at_once(work):
    never = "INTERRUPTION.end_when(lambda: False)\n"
    status, errors, seconds = end(never + READY + work, signal.SIGTERM, signal.SIGINT, gap=0.35)
    again = "SIGINT again: ended at once; all is kept\n"
    assert (status, errors) == (130, ASKED.format("SIGTERM") + again)
    assert seconds < 5


def test_one_request_that_comes_twice_is_one():
    """As timeout(1) sends it: to the process and to its group."""
    slow = "began = time.time(); INTERRUPTION.end_when(lambda: time.time() > began + 0.6)\n"
    status, errors, _ = end(slow + READY + IN_C, signal.SIGTERM, signal.SIGTERM, gap=0.05)
    assert (status, errors) == (75, ASKED.format("SIGTERM") + ENDED.format("SIGTERM"))


def test_what_is_held_is_freed_and_children_end(tmp_path):
    code = (
        "import multiprocessing, os\n"
        f"INTERRUPTION.before_end(lambda line, status: open({str(tmp_path / 'x')!r}, 'w')"
        ".write(f'{line} {status}'))\n"
        "INTERRUPTION.before_end(lambda line, status: 1 / 0)\n"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "child.start(); print('not flushed'); os.write(1, b'ready\\n')\n"
    )
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", START + code + IN_C],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "not flushed\n"  # once the child has ended too
    assert time.monotonic() - began < 30
    assert (tmp_path / "x").read_text() == "SIGINT: ended; all is kept 75"
