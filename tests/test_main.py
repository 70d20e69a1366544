"""The command line as a user meets it: training killed and restarted, and every kind of bad input.

Each case is a process of its own.
"""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from lightningdit_jax import checkpoint
from lightningdit_jax.data.latents import save_stats, write_shard
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.metrics_log import TIMED
from tests import tiny
from tests.forked_commands import answers
from tests.xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parent.parent


def environment(devices):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONUNBUFFERED": "1",
    }


def start(*arguments, devices=1):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(devices),
    )


def run(*arguments, devices=1):
    process = start(*arguments, devices=devices)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def kill_at(line_start, *arguments, devices=1):
    """Runs until a line starts so, then SIGKILL."""
    process = start(*arguments, devices=devices)
    for line in process.stdout:
        if line.startswith(line_start):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"))


def training(workdir, latents, **changes):
    return [
        "--config=configs/digits_dit.py",
        f"--workdir={workdir}",
        *tiny.flags(**{"data__path": latents, "train__log_every_steps": 1} | changes),
    ]


def final_arrays(workdir):
    found = checkpoint.find_checkpoint(str(workdir))
    reader = checkpoint.ocp.StandardCheckpointer()
    return {item: reader.restore(found / item) for item in ("params", "ema", "opt_state", "step")}


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def assert_killed_run_ends_the_same(tmp_path, latents, steps, kills, devices, **changes):
    changes |= {"train__num_steps": steps}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = run(*training(whole, latents, **changes), devices=devices)
    assert code == 0, err
    for step in kills:
        kill_at(f"step {step}/", *training(killed, latents, **changes), devices=devices)
    code, out, err = run(*training(killed, latents, **changes), devices=devices)
    assert code == 0, err
    assert "resumed from step" in out
    jax.tree.map(np.testing.assert_array_equal, final_arrays(whole), final_arrays(killed))
    assert records(whole) == records(killed)
    assert [r["step"] for r in records(killed)] == list(range(1, steps + 1))


@pytest.mark.slow
def test_killed_and_restarted_run_ends_with_the_same_bits(tmp_path, latents):
    assert_killed_run_ends_the_same(tmp_path, latents, steps=12, kills=[5], devices=1)


@pytest.mark.slow
def test_a_run_killed_many_times_on_a_mesh_ends_with_the_same_bits(tmp_path, latents):
    changes = {"mesh__fsdp": 2, "train__checkpoint_every_steps": 3}
    assert_killed_run_ends_the_same(
        tmp_path, latents, steps=30, kills=[4, 9, 10, 17, 26], devices=4, **changes
    )


def bad_inputs(tmp, latents):
    """Name -> (arguments, what the error must say)."""
    dit = ["--config=configs/digits_dit.py", f"--workdir={tmp / 'w'}"]
    vae = ["--config=configs/digits_vavae.py", f"--workdir={tmp / 'w'}"]
    empty, truncated, no_stats = (tmp / name for name in ("empty", "truncated", "no_stats"))
    empty.mkdir()
    tiny.write_latents(truncated)
    shard = truncated / "latents_rank00_shard001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    tiny.write_latents(no_stats)
    (no_stats / "latents_stats.safetensors").unlink()
    other_stats = tiny.write_latents(tmp / "other_stats")
    save_stats(other_stats, LatentScaling(np.zeros(3), np.ones(3)))
    oblong = tmp / "oblong"
    write_shard(oblong, 0, 0, *np.zeros((2, 3, 4, 6, 8), np.float32), np.zeros(3, np.int64))
    sides = tmp / "sides.py"
    lines = ["c = base.get_config()", "c.model.input_size = (16, 24)", "return c"]
    sides.write_text(
        "\n    ".join(["from lightningdit_jax.configs import base\ndef get_config():", *lines])
    )
    path = "--config.data.path"
    compiled = [*dit, "--mode=compile", "--config.model.depth=1"]
    without = {}
    if not importlib.util.find_spec("jax_cuda13_plugin"):
        without["no plugin"] = ([*compiled, "--topology=h100:1"], "install -c constraints.txt -e")
    return without | {
        "missing folder": ([*dit, f"{path}={tmp}/none"], "none"),
        "empty folder": ([*dit, f"{path}={empty}"], "empty"),
        "no folder": ([*dit, f"{path}="], "config.data.path is empty"),
        "truncated shard": ([*dit, f"{path}={truncated}"], "latents_rank00_shard001.safetensors"),
        "no statistics": ([*dit, f"{path}={no_stats}"], "latents_stats.safetensors"),
        "statistics of others": (
            [*dit, f"{path}={other_stats}"],
            "latent statistics of 3 channels",
        ),
        "resident twice": (
            [*dit, f"{path}={latents}", "--config.data.resident", "--config.data.num_workers=2"],
            "config.data.num_workers is 2",
        ),
        "channels": ([*dit, f"{path}={latents}", "--config.model.in_channels=16"], "16"),
        "size": ([*dit, f"{path}={latents}", "--config.model.input_size=8"], "8"),
        "latents of two sides": ([*dit, f"{path}={oblong}"], "holds latents of 4x6, but latents"),
        "two sides": (
            [*dit, "--config.model.input_size=(16,24)"],
            "'(16,24)'; latents and images are square",
        ),
        "two sides in a file": (
            [f"--config={sides}", *dit[1:]],
            "'input_size' (reference). (16, 24) is of original type <class 'tuple'>",
        ),
        "labels": ([*dit, f"{path}={latents}", "--config.model.num_classes=5"], "num_classes"),
        "batch and mesh": (
            [*dit, f"{path}={latents}", "--config.train.batch_size=7"],
            "batch size 7 cannot be divided among 2",
        ),
        "mesh": ([*dit, f"{path}={latents}", "--config.mesh.fsdp=3"], "2 devices"),
        "variant": ([*dit, f"{path}={latents}", "--config.model.variant=XL/3"], "'XL/3'; did you"),
        "foundation model": (
            [*vae, "--config.vae_loss.alignment=dinv2"],
            "unknown value of config.vae_loss.alignment 'dinv2'; did you mean 'dinov2'",
        ),
        "mode": ([*dit, "--mode=trian"], "unknown mode 'trian'; did you mean 'train'"),
        "key": ([*dit, "--config.train.batch=3"], "'train.batch'; did you mean"),
        "key with one dash": ([*dit, "-config.train.batch=3"], "'train.batch'; did you mean"),
        "no switch": ([*dit, "--noconfig.seed"], "write --config.seed=VALUE"),
        "key of other modes": (
            [*dit, f"{path}={latents}", "--config.sample.checkpoint=C"],
            "config.sample.checkpoint is given on the command line, but the training of a",
        ),
        "key of training": (
            [*vae, "--mode=extract", "--config.optimizer.beta1=0.5"],
            "config.optimizer.beta1 is given on the command line, but --mode=extract does not",
        ),
        "GPUs": ([*compiled, "--topology=h100:3"], "the nearest is h100:4"),
        "slice": ([*compiled, "--topology=v5e:3x3"], "the nearest is v5e:"),
        "seed": ([*dit, "--config.seed=4294967296"], "config.seed is 4294967296; expected"),
        "no number": ([*dit, "--config.optimizer.beta1=nan"], "config.optimizer.beta1 is nan"),
        "row": (["--config=configs/paper.py:xl_80ep", f"--workdir={tmp}"], "no row 'xl_80ep'"),
        "no row": (["--config=configs/paper.py", f"--workdir={tmp}"], "no row ''; its rows"),
        "nothing given": (
            ["--mode=train"],
            "give --config=CONFIG and --workdir=WORKDIR; --help lists modes",
        ),
        "no workdir": ([f"--config={empty}"], "there is no config.json in it"),
        "type": ([*dit, "--config.train.batch_size=many"], "batch_size=many"),
        "config name": ([f"--workdir={tmp}", "--config=digit_dit"], "did you mean 'digits_dit'"),
        "nothing to describe": (["--mode=describe"], "give --workdir=PATH: a checkpoint"),
        "config file": ([f"--workdir={tmp}", "--config=configs/none.py"], "no such file"),
        "images as generator data": ([*dit, "--config.data.source=digits"], "trains on 'latents'"),
        "image folder": ([*vae, "--config.data.source=folder", f"{path}={empty}"], "no images"),
        "nothing to report": (
            ["--mode=report", f"--workdir={empty}"],
            "empty holds no run: expected",
        ),
        "nothing to verify": (["--mode=verify"], "give --workdir=WORKDIR, or --config.data.path"),
        "key of a verification": (
            ["--mode=verify", f"{path}={latents}", "--config.seed=1"],
            "config.seed is given on the command line, but --mode=verify does not read it",
        ),
        "nothing to sample from": ([*dit, "--mode=sample"], "no checkpoint at"),
        "nothing to evaluate": ([*dit, "--mode=evaluate"], "--mode=sample"),
    }


def test_bad_input_is_one_clear_line(tmp_path, latents):
    # Two at a time, which may not write into one workdir.
    cases = {
        name: ([a.replace(f"{tmp_path}/w", f"{tmp_path}/w{i}") for a in arguments], said)
        for i, (name, (arguments, said)) in enumerate(bad_inputs(tmp_path, latents).items())
    }
    results = answers([arguments for arguments, _ in cases.values()], environment(devices=2))
    for (name, (_, said)), (status, out, err) in zip(cases.items(), results, strict=True):
        assert status == 2, f"{name}: {err[-2000:]}"
        assert said in err, f"{name}: {err[-2000:]}"
        assert err.count("\n") == 1, f"{name}: {err[-2000:]}"
        assert "step" not in out, f"{name}: work was done first"
    assert not list(tmp_path.glob("w*"))
