"""Overrides in every spelling that the flags library knows: checked, and the last one holds."""

import json
import pathlib
import subprocess
import sys

import pytest

from lightningdit_jax import config as configs
from lightningdit_jax.assembly.command_line import canonical
from lightningdit_jax.assembly.workdir import write_config
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent
FILE = "--config=configs/digits_vavae.py"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.train.batchsize=3", "'train.batchsize'; did you mean 'train.batch_size'"),
        ("--config.batch_size=3", "did you mean 'train.batch_size'"),
        ("--config.smaple.cfg_scale=3", "did you mean 'sample.cfg_scale'"),
        ("-config.train.batchsize=3", "did you mean 'train.batch_size'"),
        ("--noconfig.data.flp", "did you mean 'data.flip'"),
        ("-noconfig.data.flp", "did you mean 'data.flip'"),
        ("--config.train", "unknown config key 'train'"),
        ("--noconfig.seed", "--noconfig.seed: write --config.seed=VALUE"),
        ("--noconfig.data.flip=True", "write --config.data.flip=VALUE"),
        ("--noconfig", "write --config=VALUE"),
        ("--config.seed", "--config.seed has no value; expected --config.seed=VALUE"),
    ],
)
def test_bad_overrides_are_named(argument, message):
    with pytest.raises(ValueError, match=message):
        canonical([FILE, argument])


def test_every_spelling_is_one():
    given = ["-config.seed", "3", "--noconfig.data.flip", "--mode=train", "--config.data.resident"]
    want = [FILE, "--config.seed=3", "--config.data.flip=False", "--config.data.resident=True"]
    assert canonical([*given, FILE]) == [*want, "--mode=train"]
    assert canonical([FILE, "--", "--config.x=1"]) == [FILE, "--", "--config.x=1"]


def test_a_word_may_stand_for_a_number():
    words = ["--config.mesh.fsdp=auto", "--config.mesh.data=-1", "--config.sample.batch_size=8"]
    words += ["--config.flow.timestep_shift=dimension", "--config.sample.timestep_shift=0.25"]
    (mesh, _), (four, _) = parsed(
        [FILE, "--workdir=w", *words], [FILE, "--workdir=w", "--config.mesh.fsdp=four"]
    )
    assert mesh["flow"]["timestep_shift"] == "dimension"
    assert mesh["sample"]["timestep_shift"] == 0.25
    assert mesh["mesh"]["fsdp"] == "auto" and mesh["mesh"]["data"] == -1
    assert mesh["sample"]["batch_size"] == 8 and mesh["train"]["accumulate_steps"] == "auto"
    assert configs.from_dict(mesh).mesh.fsdp == "auto"
    with pytest.raises(ValueError, match=r"config\.mesh\.fsdp is 'four'; expected int or 'auto'"):
        configs.from_dict(four)


def parsed(*lines):
    """Config and workdir that the flags library makes of each command line, in its own process."""
    code = """if True:
        import json, os, sys
        from lightningdit_jax.commands import main
        for line in json.loads(sys.argv[1]):
            if os.fork() == 0:
                main.parse_flags(["main.py", *line])
                found = main.CONFIG.value.to_dict(), main.WORKDIR.value
                print(json.dumps(found), flush=True)
                os._exit(0)
            assert os.wait()[1] == 0
    """
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_last_value_of_a_key_holds(tmp_path):
    """Of tuples too, which the flags library joins; also in a file of flags."""
    flagfile = tmp_path / "flags"
    flagfile.write_text("--config.tokenizer.ch_mult=1,1,2,2,4\n--config.seed=1\n")
    line = ["--workdir=w", f"--flagfile={flagfile}", FILE]
    line += ["--config.sample.time_warp=1.0,1.0,1.0", "-config.tokenizer.ch_mult=1,1,2,4"]
    [(found, _)] = parsed([*line, "--config.seed=2", "--config.data.flip", "--noconfig.data.flip"])
    assert found["tokenizer"]["ch_mult"] == [1, 1, 2, 4] and found["seed"] == 2
    assert found["sample"]["time_warp"] == [1.0, 1.0, 1.0] and found["data"]["flip"] is False


def test_a_workdir_stands_for_its_config(tmp_path):
    written = tiny.config("digits_vavae", model__depth=3, sweep__solver=("euler",))
    write_config(written, str(tmp_path))
    changes = ["--config.tokenizer.ch_mult=1,2", "--config.model.depth=4"]
    changes += ["--config.model.patch_size=2"]
    (found, workdir), (other, elsewhere) = parsed(
        [f"--config={tmp_path}"], [f"--config={tmp_path}", "--workdir=w", *changes]
    )
    assert configs.from_dict(found) == written and workdir == str(tmp_path)
    want = written.changed(tokenizer={"ch_mult": (1, 2)}, model={"depth": 4, "patch_size": 2})
    assert configs.from_dict(other) == want and elsewhere == "w"
