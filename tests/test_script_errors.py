"""The errors of scripts name what the scripts have, no keys of a config."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
STATISTICS = ["--inception=none", "--output=none.npz"]


@pytest.mark.parametrize(
    ("script", "arguments", "advice"),
    [
        ("compare_latents.py", ["no_such", "no_such"], "Set FOLDER to"),
        ("visualize_latents.py", ["--output=none.png", "a=no_such"], "Set PATH to"),
        (
            "reference_statistics.py",
            ["--source=folder", "--path=no_such", *STATISTICS],
            "Set --path",
        ),
        ("reference_statistics.py", ["--source=folder", *STATISTICS], "--path is empty"),
    ],
)
def test_an_error_names_the_scripts_own_options(script, arguments, advice):
    command = [sys.executable, f"scripts/{script}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and advice in done.stderr, done.stderr
    assert "config." not in done.stderr
