"""`make setup` takes the first interpreter that will do, tried by running it; pip is a stand-in."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# What a program called python3.x does when it is asked whether it will do, by kind.
ANSWERS = {
    "old": "exit 1",  # sys.version_info is below, or venv cannot be imported
    "shim": "echo 'pyenv: command not found' >&2; exit 127",
    "good": "exit 0",
}
PROGRAM = """#!/bin/sh
case "$1" in
    -c) {answer} ;;
    -m) echo "{name} $*" >> calls
        if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Runs it where PATH has the given programs alone; says (exit status, stderr, calls)."""
    folder, programs = tmp_path / "tree", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name in ("Makefile", "setup.py", "requirements-build.txt", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("cp", "make", "mkdir", "sh", "touch"):
        (programs / name).symlink_to(shutil.which(name))

    def run(pythons, *arguments):
        for name, kind in pythons.items():
            (programs / name).write_text(PROGRAM.format(answer=ANSWERS[kind], name=name))
            (programs / name).chmod(0o755)
        done = subprocess.run(
            ["make", "setup", *arguments],
            cwd=folder,
            env={"PATH": os.fspath(programs)},
            capture_output=True,
            text=True,
        )
        calls = folder / "calls"
        return done.returncode, done.stderr, calls.read_text() if calls.exists() else ""

    return run


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3": "good", "python3.13": "good"}, "python3"),
        ({"python3": "old", "python3.13": "shim", "python3.12": "good"}, "python3.12"),
        ({"python3.11": "good"}, "python3.11"),
    ],
)
def test_the_first_that_will_do_is_taken(setup, pythons, taken):
    status, _, calls = setup(pythons)
    assert status == 0
    assert calls.splitlines()[0] == f"{taken} -m venv .venv"
    build, every, this = [line for line in calls.splitlines() if "pip install" in line]
    assert build.endswith("--require-hashes -r requirements-build.txt")
    assert every.endswith("--require-hashes --no-build-isolation -r requirements.txt")
    assert this.endswith("--no-deps --no-build-isolation -e .")


def test_the_one_that_is_asked_for_is_taken(setup):
    status, _, calls = setup({"python3": "good", "python3.12": "good"}, "PYTHON=python3.12")
    assert status == 0 and calls.startswith("python3.12 -m venv")


@pytest.mark.parametrize("arguments", [(), ("PYTHON=python3.12",)])
def test_none_is_told_in_one_line_and_nothing_made(setup, arguments):
    status, said, calls = setup({"python3": "old", "python3.12": "shim"}, *arguments)
    assert status != 0 and calls == ""
    line, make = said.splitlines()
    assert line.startswith("Python 3.11 or newer") and "python3.12" in line
    assert make.startswith("make: ***")


def test_the_version_asked_for_is_that_of_the_interpreter():
    """The question itself, put to this Python as it is and as an older one would see it."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    question = next(line for line in lines if line.startswith("WILL_DO")).split(" := ")[1]
    older = "import sys; sys.version_info = (3, 10, 9); "
    assert subprocess.run([sys.executable, "-c", question]).returncode == 0
    assert subprocess.run([sys.executable, "-c", older + question]).returncode == 1
