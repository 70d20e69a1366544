"""The Dockerfile as a shell and setup.py read it; no image is built."""

import ast
import pathlib
import subprocess

import pytest

from tests.test_package import PYTHONS, said_to_setup

ROOT = pathlib.Path(__file__).parent.parent


def instructions():
    """[(name, the rest)] of the Dockerfile, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", "").splitlines()]


def installed(tmp_path, accelerator):
    """Status of the commands that build an image, and what they ask of a stand-in for pip."""
    (tmp_path / "pip").write_text('#!/bin/sh\necho "pip $*"\n')
    (tmp_path / "pip").chmod(0o755)
    script = "\n".join(rest for name, rest in instructions() if name == "RUN")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ACCELERATOR": accelerator}
    line = ["sh", "-euc", script]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "tpu"])
def test_what_is_installed_for_an_accelerator(tmp_path, accelerator):
    status, asked, _ = installed(tmp_path, accelerator)
    assert status == 0 and len(asked) == 3
    for line, name in zip(asked, ("requirements-build.txt", "requirements.txt")):
        assert f"--require-hashes -r {name}" in line.replace("--no-build-isolation ", "")
    extras = ast.literal_eval(said_to_setup()["extras_require"])
    if accelerator == "cpu":
        assert "--no-deps" in asked[2] and asked[2].endswith(" .")
    else:
        assert "-c constraints.txt" in asked[2] and asked[2].endswith(f"-e .[gcs,{accelerator}]")
        assert {"gcs", accelerator} <= extras.keys()


def test_another_accelerator_is_one_line(tmp_path):
    status, _, said = installed(tmp_path, "gpu")
    assert (status, said) == (2, "ACCELERATOR is 'gpu'; expected cpu, cuda or tpu\n")


def test_the_image_begins_as_it_is_tested():
    [image] = [rest for name, rest in instructions() if name == "FROM"]
    assert image.removeprefix("python:").removesuffix("-slim") in PYTHONS
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY"]
    assert all((ROOT / file).exists() for files in copied for file in files)
    # By itself and not by a shell, which would keep signals to itself.
    [entry] = [rest for name, rest in instructions() if name == "ENTRYPOINT"]
    assert ast.literal_eval(entry) == ["python", "main.py"]
