"""--config is a path that exists, or else the name of a config that comes with the package."""

import os
import pathlib

import pytest

from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.commands.config_argument import config_flags_of
from lightningdit_jax.commands.named_configs import NAMES, summary
from tests import tiny

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def file_of(value):
    """The one file that --config=VALUE stands for, and what stands behind it."""
    (flag,) = config_flags_of(value, ["--workdir=w"])
    path, _, row = flag.removeprefix("--config=").partition(":")
    return path, row


@pytest.mark.parametrize("name", ["dit_xl", "dit_xl.py", "configs/dit_xl.py"])
def test_a_name_is_a_config_of_the_package_in_any_folder(elsewhere, name):
    path, row = file_of(name)
    assert os.path.samefile(path, CONFIGS / "dit_xl.py") and row == ""


@pytest.mark.parametrize("name", ["paper", "configs/paper.py"])
def test_a_name_may_have_a_row(elsewhere, name):
    path, row = file_of(f"{name}:xl_800ep_cfg")
    assert os.path.samefile(path, CONFIGS / "paper.py") and row == "xl_800ep_cfg"


def test_a_path_that_exists_comes_first(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "dit_xl.py").write_text("mine")
    assert file_of("configs/dit_xl.py") == ("configs/dit_xl.py", "")
    (elsewhere / "dit_b").mkdir()  # as --workdir=dit_b leaves it where it ends at once
    assert os.path.samefile(file_of("dit_b")[0], CONFIGS / "dit_b.py")
    write_config(tiny.config("digits_dit"), str(elsewhere / "dit_b"))
    path, written = file_of("dit_b")
    assert os.path.samefile(path, CONFIGS / "workdir.py") and '"hidden_size": 32' in written


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vavae_f16d23", "--config=vavae_f16d23: there is no .*; did you mean 'vavae_f16d32'"),
        ("configs/dit_x.py", "did you mean 'dit_xl'"),
        ("papr:xl_64ep", "did you mean 'paper'"),
        ("workdir", "unknown config 'workdir'"),  # not for people
        ("mine.py", "there is no such file or folder, nor a config of this name"),
    ],
)
def test_another_name_is_refused_with_the_nearest(elsewhere, value, message):
    with pytest.raises(ValueError, match=message):
        config_flags_of(value, [])


def test_every_config_has_a_name_and_a_line():
    files = {path.stem for path in CONFIGS.glob("*.py")}
    assert set(NAMES) == files - {"__init__", "workdir"}
    for name in NAMES:
        assert 20 < len(summary(name)) < 120, name
    assert summary("dit_b").endswith("131 M parameters, 160 epochs in the paper.")
