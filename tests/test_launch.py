"""The launch scripts print commands that shells can parse, with every argument where it belongs.

Nothing here has a cluster: what the commands do there is not tested, what a script makes of their
answers stands in test_launch_answers.py.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TRAIN = ["--config=configs/dit_xl.py", "--workdir=gs://b/w", "--config.data.path=/mnt/1, it's 2"]


def printed(script, *arguments, **environment):
    """The commands that a script prints, as lists of words."""
    runner = ["bash"] if script.endswith(".sh") else [sys.executable]
    lines = subprocess.run(
        [*runner, f"scripts/{script}", *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    ).stdout.splitlines()
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)
    return [shlex.split(line) for line in lines]


def remote(command):
    """The words of what runs on the hosts, checked by bash."""
    line = next(word for word in command if word.startswith("--command=")).partition("=")[2]
    subprocess.run(["bash", "-n"], input=line, text=True, check=True)
    return shlex.split(line.replace("(", " ").replace(")", " "))


def tpu_vm(action, *options, arguments=()):
    place = ["--name=dit", "--zone=us-west4-a", "--project=p", "--dry-run"]
    return printed("launch_tpu_vm.py", action, *place, *options, "--", *arguments)


def test_keep_requests_installs_and_trains():
    setup = "gcsfuse --implicit-dirs BUCKET /mnt/bucket"
    options = ["--accelerator=v5litepod-16", "--spot", f"--setup={setup}"]
    commands = tpu_vm("keep", *options, arguments=TRAIN)
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    assert [c[4] for c in commands if c[:4] == queued] == ["describe", "create"]
    for command in commands:
        assert command[0] == "git" or {"--zone=us-west4-a", "--project=p"} <= set(command)
    create = next(c for c in commands if c[4] == "create")
    assert {
        "dit",
        "--node-id=dit",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    } <= set(create)
    archive, copy, install, mount, end, train = commands[-6:]
    assert "--worker=all" in end and "-TERM" in remote(end)
    assert archive[:1] == ["git"] and "archive" in archive
    assert copy[4] == "scp" and f"--output={copy[5]}" in archive and "--worker=all" in copy
    assert "--worker=all" in install and ".[gcs,tpu]" in remote(install)
    assert "--worker=all" in mount and remote(mount) == setup.split()
    assert "--worker=all" in train
    inner = remote(train)[remote(train).index("-c") + 1]
    subprocess.run(["bash", "-n"], input=inner, text=True, check=True)
    assert shlex.split(inner)[: 2 + len(TRAIN)] == [".venv/bin/python", "main.py", *TRAIN]


def test_what_runs_on_a_host_records_its_process_and_status(tmp_path):
    """The very line that is sent to the hosts, with a stand-in for Python."""
    end, command = map(remote_line, tpu_vm("train", arguments=TRAIN))
    folder = tmp_path / "lightningdit_jax"
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\nexit 75\n')
    python.chmod(0o755)
    subprocess.run(["bash", "-c", end], check=True, cwd=tmp_path)
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    status = folder / "train.status"
    subprocess.run(
        ["bash", "-c", f"until [ -s {status} ]; do sleep .05; done"], check=True, timeout=20
    )
    assert status.read_text() == "75\n" and int((folder / "train.pid").read_text()) > 0
    subprocess.run(["bash", "-c", end], check=True, cwd=tmp_path)
    assert not (folder / "train.pid").exists()
    assert (folder / "train.log").read_text().splitlines() == ["main.py", *TRAIN]


def remote_line(command):
    return next(word for word in command if word.startswith("--command=")).partition("=")[2]


def test_several_slices_are_one_request_and_every_node_is_served():
    commands = tpu_vm("create", "--accelerator=v4-32", "--slices=2")
    assert {"--node-count=2", "--node-prefix=dit", "--runtime-version=tpu-ubuntu2204-base"} <= set(
        commands[0]
    )
    trains = tpu_vm("train", "--slices=2", arguments=TRAIN)
    assert [c[5] for c in trains] == ["dit-0", "dit-1"] * 2  # all are ended before any is started
    for action in ("install", "stop", "logs", "delete", "status"):
        assert tpu_vm(action, "--slices=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--accelerator=h100"], "--accelerator=h100; expected v4-"),
        (["train"], "needs main.py's arguments after --"),
    ],
)
def test_mistakes_are_named(arguments, message):
    script = ["scripts/launch_tpu_vm.py", *arguments, "--name=a", "--zone=z", "--dry-run"]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and message in done.stderr


def test_gke():
    place = ["--name=dit", "--cluster=c", "--zone=z", "--slices=2", "--dry-run"]
    [command] = printed("launch_gke.py", "create", *place, "--", *TRAIN)
    assert command[:3] == ["xpk", "workload", "create"]
    assert {
        "--workload=dit",
        "--cluster=c",
        "--tpu-type=v5litepod-16",
        "--num-slices=2",
        "--restart-on-exit-codes=75",
    } <= set(command)
    words = remote(command)
    assert words[words.index("exec") + 1 :] == ["python", "main.py", *TRAIN]
    assert printed("launch_gke.py", "delete", *place)[0][:3] == ["xpk", "workload", "delete"]
    assert printed("launch_gke.py", "logs", *place)[0][:2] == ["kubectl", "logs"]


def test_slurm():
    subprocess.run(["bash", "-n", "scripts/launch_slurm.sh"], check=True, cwd=ROOT)
    [command] = printed("launch_slurm.sh", "--dry-run", *TRAIN, SLURM_GPUS_ON_NODE="4")
    assert command[0] == "JAX_LOCAL_DEVICE_IDS=0,1,2,3"
    srun = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=16"]
    assert command[2:] == [*srun, ".venv/bin/python", "main.py", *TRAIN]
    told = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "64"}
    assert "--cpus-per-task=64" in printed("launch_slurm.sh", "--dry-run", *TRAIN, **told)[0]


@pytest.mark.parametrize("gpus", ["", "0", "a100:4"])
def test_a_slurm_job_without_gpus_is_refused(gpus):
    done = subprocess.run(
        ["bash", "scripts/launch_slurm.sh", "--dry-run", *TRAIN],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"SLURM_GPUS_ON_NODE": gpus},
    )
    assert done.returncode == 2 and f"SLURM_GPUS_ON_NODE is '{gpus}'" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 75])
def test_a_slurm_job_goes_back_into_the_queue_after_a_save(tmp_path, status):
    """With stand-ins for srun and scontrol."""
    for name, body in {"srun": f"exit {status}", "scontrol": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "1",
    }
    done = subprocess.run(
        ["bash", "scripts/launch_slurm.sh", *TRAIN],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == status
    assert done.stdout == ("requeue 7\n" if status == 75 else "")
