"""The launch scripts print commands that shells can parse, with every argument where it belongs.

What they make of the answers of a cloud stands in test_launch_answers.py.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from tests.fake_gcloud import Scripts

ROOT = pathlib.Path(__file__).parent.parent
TRAIN = ["--config=configs/dit_xl.py", "--workdir=gs://b/w", "--config.data.path=/mnt/1, it's 2"]


@pytest.fixture
def printed(monkeypatch, capsys):
    """The commands that a script prints, as lists of words."""
    scripts = Scripts(monkeypatch).without_checks()

    def run(script, *arguments):
        assert scripts.main(script, *arguments) is None
        return parsed(capsys.readouterr().out)

    return run


def parsed(output):
    lines = output.splitlines()
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)
    return [shlex.split(line) for line in lines]


def remote_line(command):
    return next(word for word in command if word.startswith("--command=")).partition("=")[2]


def remote(command):
    """The words of what runs on the hosts, checked by bash."""
    line = remote_line(command)
    subprocess.run(["bash", "-n"], input=line, text=True, check=True)
    return shlex.split(line.replace("(", " ").replace(")", " "))


PLACE = ["--name=dit", "--zone=us-west4-a", "--project=p", "--dry-run"]


def test_keep_requests_installs_and_trains():
    """In a process of its own, with all checks."""
    setup = "gcsfuse --implicit-dirs BUCKET /mnt/bucket"
    options = ["--accelerator=v5litepod-16", "--spot", f"--setup={setup}"]
    script = [sys.executable, "scripts/launch_tpu_vm.py", "keep", *PLACE, *options, "--", *TRAIN]
    done = subprocess.run(script, check=True, capture_output=True, text=True, cwd=ROOT)
    commands = parsed(done.stdout)
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


def test_what_runs_on_a_host_records_its_process_and_status(printed, tmp_path):
    """The very line that is sent to the hosts, with a stand-in for Python."""
    end, command = map(remote_line, printed("launch_tpu_vm", "train", *PLACE, "--", *TRAIN))
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


def test_several_slices_are_one_request_and_every_node_is_served(printed):
    def tpu_vm(action, *options):
        return printed("launch_tpu_vm", action, *PLACE, "--slices=2", *options)

    create = tpu_vm("create", "--accelerator=v4-32")[0]
    assert {"--node-count=2", "--node-prefix=dit"} <= set(create)
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    trains = tpu_vm("train", "--", *TRAIN)
    assert [c[5] for c in trains] == ["dit-0", "dit-1"] * 2  # all are ended before any is started
    for action in ("install", "stop", "logs", "delete"):
        assert tpu_vm(action)


GKE = ["--name=dit", "--cluster=c", "--zone=z"]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("launch_tpu_vm", ["create", *PLACE, "--accelerator=h100"], "--accelerator=h100; expected"),
        ("launch_tpu_vm", ["create", *PLACE, "--accelerator=v4-"], "--accelerator=v4-; expected"),
        ("launch_tpu_vm", ["create", *PLACE, "--slices=0"], "--slices=0; expected at least 1"),
        ("launch_tpu_vm", ["train", *PLACE], "needs main.py's arguments after --"),
        ("launch_gke", ["create", *GKE], "needs main.py's arguments after --"),
        ("launch_gke", ["create", *GKE, "--slices=0"], "--slices=0; expected at least 1"),
        ("launch_gke", ["create", *GKE, "--spot", "--reservation=r"], "not allowed with"),
    ],
)
def test_mistakes_are_named(monkeypatch, capsys, script, arguments, message):
    assert Scripts(monkeypatch).main(script, *arguments) == 2
    assert message in capsys.readouterr().err


def test_gke(printed):
    place = [*GKE, "--slices=2", "--dry-run"]
    data = ["--storage=latents", "--storage=weights"]
    [command] = printed("launch_gke", "create", *place, *data, "--spot", "--", *TRAIN)
    assert command[:3] == ["xpk", "workload", "create"]
    assert {
        "--workload=dit",
        "--cluster=c",
        "--tpu-type=v5litepod-16",
        "--num-slices=2",
        "--restart-on-exit-codes=75",
        "--spot",
        *data,
    } <= set(command)
    words = remote(command)
    assert words[words.index("exec") + 1 :] == ["python", "main.py", *TRAIN]
    [command] = printed("launch_gke", "create", *place, "--reservation=r", "--", *TRAIN)
    assert "--reservation=r" in command and "--spot" not in command
    assert not any(word.startswith("--storage") for word in command)
    assert printed("launch_gke", "delete", *place)[0][:3] == ["xpk", "workload", "delete"]
    assert printed("launch_gke", "logs", *place)[0][:2] == ["kubectl", "logs"]


@pytest.mark.parametrize("action", ["create", "delete", "logs"])
@pytest.mark.parametrize("ends", [0, 1, KeyboardInterrupt()])
def test_a_workload_that_may_be_left_is_named(monkeypatch, capsys, action, ends):
    scripts, asked = Scripts(monkeypatch).without_checks(), []

    def run(words, check):
        asked.append(words)
        if isinstance(ends, BaseException):
            raise ends
        return subprocess.CompletedProcess(words, ends)

    monkeypatch.setattr("subprocess.run", run)
    status = scripts.main("launch_gke", action, *GKE, "--", *TRAIN)
    assert status == (130 if isinstance(ends, BaseException) else ends) and len(asked) == 1
    said = capsys.readouterr().err
    left = action == "create" or (action == "delete" and status != 0)
    assert ("xpk workload delete --workload=dit --cluster=c --zone=z\n" in said) == left
    assert ("ended with status" in said) == (status != 0 and (action, status) != ("logs", 130))


def test_a_program_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    scripts, keep = Scripts(monkeypatch), ["launch_tpu_vm", "status", *PLACE[:-1]]
    said = "error: there is no program `{}` on this machine's PATH; install it"
    assert (
        scripts.main(*keep) == scripts.main("launch_gke", "delete", *GKE) == said.format("gcloud")
    )
    stand_ins(tmp_path, gcloud="exit 0")
    assert scripts.main("launch_gke", "delete", *GKE) == said.format("xpk")


@pytest.mark.parametrize(
    "words",
    [
        # What gcloud says without an account, and with one whose log-in has expired.
        "You do not currently have an active account selected.\nPlease run:\n\n"
        "  $ gcloud auth login\n\nto obtain new credentials.",
        "Reauthentication failed. cannot prompt during non-interactive execution.\n"
        "Please run:\n\n  $ gcloud auth login\n\nto obtain new credentials.",
    ],
)
@pytest.mark.parametrize("script", ["launch_tpu_vm", "launch_gke"])
def test_without_a_log_in_nothing_is_asked_for(monkeypatch, script, words):
    scripts, asked = Scripts(monkeypatch), []

    def run(command, captured, seconds):
        asked.append(command)
        return 1, "", f"ERROR: (gcloud.auth.print-access-token) {words}\n"

    monkeypatch.setattr(scripts.slice_commands, "run", run)
    place = {"launch_tpu_vm": PLACE[:-1], "launch_gke": GKE}[script]
    message = scripts.main(script, "delete", *place)
    assert len(asked) == 1 and "\n" not in message
    assert words.splitlines()[0] in message
    assert message.endswith("; run `gcloud auth login`, then the same command again")


@pytest.mark.parametrize(
    "ends",
    [(0, "token", ""), (1, "", "ERROR: no network"), subprocess.TimeoutExpired("gcloud", 60)],
)
def test_another_failure_says_nothing_about_the_log_in(monkeypatch, ends):
    scripts = Scripts(monkeypatch)

    def run(command, captured, seconds):
        if isinstance(ends, BaseException):
            raise ends
        return ends

    monkeypatch.setattr(scripts.slice_commands, "run", run)
    scripts.log_in.check_log_in()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("script", ["launch_tpu_vm.py", "launch_gke.py"])
def test_a_script_that_is_ended_names_what_it_leaves(tmp_path, ending, script):
    """In a process of its own, while a stand-in for gcloud and xpk runs."""
    action, program = {
        "launch_tpu_vm.py": (["create", "--name=dit", "--zone=z"], "gcloud"),
        "launch_gke.py": (["delete", *GKE], "xpk"),
    }[script]
    log_in = "[ $1 = auth ] && exit"
    stand_ins(tmp_path, gcloud=log_in)
    stand_ins(tmp_path, **{program: f"{log_in}\necho there\nexec sleep 60 > /dev/null 2>&1"})
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # Where these tests run in the background, the shell or nohup has such signals ignored.
    heeding = f"import os, signal; signal.signal({ending.value}, signal.SIG_DFL); os.execv"
    line = [sys.executable, f"{ROOT}/scripts/{script}", *action]
    line = [sys.executable, "-c", f"{heeding}({sys.executable!r}, {line})"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=environment, **pipes) as process:
        assert process.stdout.readline() == "there\n"
        process.send_signal(ending)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 130
    assert "delete" in said.splitlines()[-1] and "dit" in said and "Traceback" not in said


def test_what_stays_out_of_an_image():
    """Of what git ignores and what else lies about, by xpk's reading: one pattern a line."""
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".cache", "outputs", "runs", "ckpts", "build"} <= set(patterns)
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert ignored <= {pattern.removeprefix("**/") for pattern in patterns}


def slurm(*arguments, path=None, **environment):
    """The job's script, as Slurm runs it."""
    more = {"PATH": f"{path}:{os.environ['PATH']}"} if path else {}
    return subprocess.run(
        ["bash", "scripts/launch_slurm.sh", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment | more,
        timeout=60,
    )


def test_slurm():
    subprocess.run(["bash", "-n", "scripts/launch_slurm.sh"], check=True, cwd=ROOT)
    [command] = parsed(slurm("--dry-run", *TRAIN, SLURM_GPUS_ON_NODE="4").stdout)
    assert command[0] == "JAX_LOCAL_DEVICE_IDS=0,1,2,3"
    srun = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=16"]
    assert command[2:] == [*srun, ".venv/bin/python", "main.py", *TRAIN]
    told = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "64"}
    assert "--cpus-per-task=64" in parsed(slurm("--dry-run", *TRAIN, **told).stdout)[0]
    script = (ROOT / "scripts" / "launch_slurm.sh").read_text()
    assert "#SBATCH --cpus-per-task=16\n" in script and "#SBATCH --requeue\n" in script


def test_a_dry_run_of_a_question_has_no_answer(printed):
    [command] = printed("launch_tpu_vm", "status", *PLACE)
    assert command[:5] == ["gcloud", "compute", "tpus", "queued-resources", "describe"]


def test_a_slurm_job_ends_as_main_py_does(tmp_path):
    """srun's status is that of its task: of arguments that are refused, with their one line."""
    stand_ins(tmp_path, srun='shift 2; exec "$@"')
    done = slurm("--config=none", "--workdir=w", path=tmp_path, SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'none'" in done.stderr


@pytest.mark.parametrize("gpus", ["", "0", "a100:4"])
def test_a_slurm_job_without_gpus_is_refused(gpus):
    done = slurm("--dry-run", *TRAIN, SLURM_GPUS_ON_NODE=gpus)
    assert done.returncode == 2 and f"SLURM_GPUS_ON_NODE is '{gpus}'" in done.stderr


def stand_ins(folder, **bodies):
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


JOB = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1"}


@pytest.mark.parametrize("status", [0, 1, 2, 74, 75, 127, 137, 143])
def test_a_slurm_job_goes_back_into_the_queue_after_a_save(monkeypatch, tmp_path, status):
    path = stand_ins(tmp_path, srun=f"exit {status}", scontrol='echo "$@"', sleep="exit 0")
    done = slurm(*TRAIN, path=path, **JOB)
    then = Scripts(monkeypatch).launch_states.exit_of(status).slurm
    assert done.returncode == status
    assert done.stdout == ("requeue 7\n" if then == "back into the queue" else "")


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_a_slurm_job_asks_four_times_to_go_back(tmp_path, failures):
    """As Slurm's controller that is restarting, or a job that may not be requeued."""
    scontrol = (
        f"echo asked >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) -gt {failures} ] || "
        "{ echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }"
    )
    path = stand_ins(tmp_path, srun="exit 75", scontrol=scontrol, sleep="exit 0")
    done = slurm(*TRAIN, path=path, **JOB)
    assert done.returncode == 75
    assert len((tmp_path / "asked").read_text().split()) == min(failures + 1, 4)
    assert ("submit the same command again" in done.stderr) == (failures == 4)


def test_a_slurm_job_outlives_the_signal_that_ends_main_py(tmp_path):
    """Slurm may send it to the job's shell as well as to main.py."""
    srun = "trap 'exit 75' TERM; echo there; while :; do sleep .05; done"
    path = stand_ins(tmp_path, srun=srun, scontrol='echo "$@"')
    environment = os.environ | JOB | {"PATH": f"{path}:{os.environ['PATH']}"}
    line = ["bash", "scripts/launch_slurm.sh", *TRAIN]
    group = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(line, env=environment, cwd=ROOT, **group) as process:
        assert process.stdout.readline() == "there\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == "requeue 7\n" and process.returncode == 75
