"""--help and --help=KEY: complete, quick, and values that can be typed as they are printed."""

import json
import pathlib
import subprocess
import sys

import pytest

from lightningdit_jax.commands import help, main
from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.config import Config
from lightningdit_jax.config_comments import key_comments
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.configs import vavae_f16d32_long
from tests.test_command_line import parsed

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("arguments", "topic"),
    [
        (["--help"], ""),
        (["--mode=sample", "-h"], ""),
        (["--help=train"], "train"),
        (["--config=dit_xl", "-help=config.seed"], "config.seed"),
        (["--helpfull"], None),  # of the flags library
        (["--config.sample.labels=--help"], None),
    ],
)
def test_what_help_is_asked_about(arguments, topic):
    assert help.asked_for(arguments) == topic


def test_help_does_not_wait_for_jax(tmp_path):
    """Nor does a command that is started from another folder."""
    code = (
        "import sys; sys.modules['jax'] = None; sys.path.insert(0, sys.argv.pop(1))\n"
        "from lightningdit_jax.commands.start import lightningdit\n"
        "for arguments in (['--help'], ['--help=train.init', '--config=digits_dit']):\n"
        "    sys.argv[1:] = arguments; lightningdit()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    configs = {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__", "workdir"}
    assert {*MODES, *configs, "--topology", "--config.train.init="} <= set(words)


def test_every_key_is_explained_with_its_default():
    text = help.of_keys("keys", [])
    shown = [line.split("=")[0] for line in text.splitlines() if line.startswith("  --config.")]
    assert shown == [f"  --config.{key}" for key in key_types(Config)]


def test_what_is_said_of_a_key_is_found():
    """Behind it, above it, and of both files."""
    said = key_comments()
    assert said["train.batch_size"] == "global"
    assert said["frozen.foundation_normalize"].startswith("Sees [-1, 1] as in the release;")
    assert said["compute.remat"].startswith('"none", "dots", "attention_mlp"')
    assert said["sample.atol"] == "of dopri5"
    assert said["sample.cfg_scale"].startswith("1 is no guidance; guidance and shift as published")
    assert said["sweep"].startswith("--mode=sweep: values to try")
    assert said["optimizer.beta1"] == ""


def test_a_config_shows_its_own_values():
    text = help.of_keys("optimizer", ["--config=vavae_f16d32"])
    assert "  --config.optimizer.learning_rate=0.0001  (not 0.0002)\n" in text
    assert "  --config.optimizer.schedule=constant\n" in text
    assert "--config.train" not in text
    row = help.of_keys("train.num_steps", ["--config=paper:xl_800ep_cfg"])
    assert "--config.train.num_steps=1000000  (not 80000)" in row


def test_a_part_of_a_name_is_enough_and_nonsense_is_refused():
    text = help.of_keys("cfg_scale", [])
    assert "config.sample.cfg_scale=" in text and "config.sweep.cfg_scale=" in text
    with pytest.raises(ValueError, match=r"did you mean 'train\.batch_size'"):
        help.of_keys("train.batchsize", [])
    with pytest.raises(ValueError, match="expected the name of a config, a Python file or a"):
        help.of_keys("train", ["--config=theirs.yaml"])


def test_what_is_printed_can_be_typed():
    """The printed values of one config, given on the command line of another, make the one."""
    lines = help.of_keys("keys", ["--config=vavae_f16d32_long"]).splitlines()
    typed = [line.split("  (not ")[0].strip() for line in lines if line.startswith("  --config.")]
    unset = [f"--config.model.{k}=" for k in ("depth", "hidden_size", "num_heads", "patch_size")]
    typed = [flag for flag in typed if flag not in unset]
    one = json.loads(json.dumps(vavae_f16d32_long.get_config().to_dict()))
    [(found, _)] = parsed(["--config=digits_dit", "--workdir=w", *typed])
    assert found == one | {"model": one["model"] | {"depth": 5, "hidden_size": 96, "num_heads": 4}}


def test_an_unknown_topic_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightningdit", "--help=nonsense"])
    with pytest.raises(SystemExit) as end:
        main.run()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: unknown config key 'nonsense'") and not said.out
    assert said.err.count("\n") == 1
