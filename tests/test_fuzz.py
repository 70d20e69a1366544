"""A few of the inputs of make fuzz, and that its harness notices what it is there for."""

import mmap
import os
import pathlib
import subprocess
import sys
import time

import pytest

from lightningdit_jax.convert.keymap import ConversionError
from tests.fuzz.harness import SENTINEL, Input, Kind, run

ROOT = pathlib.Path(__file__).parent.parent


def test_a_few_inputs_of_every_kind():
    """In a process of its own: its children must not inherit threads of JAX."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--scale=0.012", "--seed=1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    name, inputs, read, refused, *others = [cell.strip() for cell in last.strip("| ").split("|")]
    assert name == "all" and int(inputs) > 150
    assert int(read) > 12 and int(refused) > 60 and set(others) == {"0"}


def read_badly(folder, given):
    """What a reader may do wrong, by name; each after a whole file was read in the same child."""
    match given.given:
        case "traceback":
            return {}["x"]
        case "two lines":
            raise ConversionError("", [])
        case "crash":
            os.abort()
        case "work without end":
            while True:
                pass
        case "waiting without end":
            time.sleep(60)
        case "much memory":
            return len(b"x" * 2**27)
        case "memory that is not used":
            mmap.mmap(-1, 2**40)
        case "memory that is swallowed":
            try:
                bytearray(2**40)
            except MemoryError as error:
                raise ValueError("damaged") from error
        case "system":
            os.system("true")
        case "sentinel":
            return os.open(f"{folder}/../{SENTINEL}", os.O_CREAT | os.O_WRONLY)
        case "import":
            import antigravity  # noqa: F401
        case "exec":
            exec("1")
        case "wrong":
            return "wrong"
    return ""


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("traceback", "traceback"),
        ("two lines", "traceback"),
        ("crash", "crash"),
        ("work without end", "hang"),
        ("waiting without end", "hang"),
        ("much memory", "over memory"),
        ("memory that is not used", "over memory"),
        ("memory that is swallowed", "over memory"),
        ("system", "code executed"),
        ("sentinel", "code executed"),
        ("import", "code executed"),
        ("exec", "code executed"),
        ("wrong", "wrong"),
    ],
)
def test_the_harness_notices(case, outcome, monkeypatch):
    monkeypatch.setattr("tests.fuzz.harness.SECONDS", 0.5)
    monkeypatch.setattr("tests.fuzz.harness.WAITING", 2)
    kind = Kind(
        "bad",
        prepare=lambda folder: None,
        inputs=lambda seed, count: [],
        read=read_badly,
        wrong=lambda folder, given, found: found,
        is_threaded=case == "much memory",
    )
    given = {7: Input({}, "fine"), 8: Input({"x": b"y"}, case), 9: Input({}, "fine")}
    results = run(kind, given)
    assert [(result.number, result.outcome) for result in results] == [
        (7, "read"),
        (8, outcome),
        (9, "read"),
    ]
