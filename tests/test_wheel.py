"""The wheel in a clean environment of each Python that is there, used from another folder.

Installs from the package index, by constraints.txt.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.commands.named_configs import NAMES
from tests import tiny
from tests.test_package import PYTHONS, console_scripts

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(__name__)]
OTHER_MODES = ("extract.", "evaluate.")


def run(*command, cwd):
    ours = ("PYTHON", "VIRTUAL", "XLA_", "JAX_")  # the flags are of the JAX that tests run with
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    return done.stdout


@functools.cache
def works(python):
    code = "import ensurepip, venv"
    return shutil.which(python) and not subprocess.run([python, "-c", code]).returncode


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("lightningdit_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "clone" / name, symlinks=True, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", "./clone")
    run(sys.executable, *build, cwd=folder)
    (found,) = folder.glob("lightningdit_jax-*.whl")
    return found


@pytest.mark.parametrize("version", PYTHONS)
def test_an_installation_trains_and_describes_in_any_folder(version, wheel, tmp_path):
    if not works(f"python{version}"):
        pytest.skip(f"no python{version} with the modules venv and ensurepip")
    run(f"python{version}", "-m", "venv", "env", cwd=tmp_path)
    programs = tmp_path / "env" / "bin"
    pins = ("-c", ROOT / "constraints.txt")
    run(programs / "pip", "install", "--quiet", *pins, f"{wheel}[digits]", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import lightningdit_jax.configs.base as base; print(base.__file__)"
    where = run(programs / "python", "-c", code, cwd=elsewhere).strip()
    assert pathlib.Path(where).is_relative_to(tmp_path / "env")
    for name in console_scripts():
        assert "--" in run(programs / name, "--help", cwd=elsewhere)
    words = run(programs / "lightningdit", "--help", cwd=elsewhere).split()
    assert {*MODES, *NAMES} <= set(words)
    keys = {k: v for k, v in tiny.TOKENIZER.items() if not k.startswith(OTHER_MODES)}
    training = [f"--config.{key}={value}" for key, value in keys.items()]
    out = run(
        programs / "lightningdit", "--config=digits_vavae", "--workdir=w", *training, cwd=elsewhere
    )
    assert "trained 2 steps" in out
    assert out.splitlines()[-1] == "next: lightningdit --config=w --mode=extract"
    described = run(programs / "lightningdit", "--mode=describe", "--workdir=w", cwd=elsewhere)
    assert "vavae, " in described and ", step 2\n" in described
