"""What launch_tpu_vm.py makes of the answers of the cloud, by a gcloud that replays them.

No answer but NOT_FOUND of the very request may lead to another slice, and no failure to a deletion
or a restart.
"""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest

from lightningdit_jax.assembly.workdir import write_config
from tests import fake_gcloud, tiny

ROOT = pathlib.Path(__file__).parent.parent
RESOURCE = "Resource 'projects/p/locations/us-west4-a/queuedResources/dit' was not found"
NOT_FOUND = [1, "", f"ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: {RESOURCE}"]
EXPIRED = [1, "", "ERROR: (gcloud) There was a problem refreshing your current auth tokens"]
NETWORK = [1, "", "ERROR: gcloud crashed (ConnectionError): Max retries exceeded with url"]
QUOTA = [1, "", "ERROR: (gcloud) RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Read'"]
OTHER = [1, "", NOT_FOUND[2].replace("/dit'", "/dit-2'")]
ZONE = [1, "", "ERROR: (gcloud) NOT_FOUND: Location us-west4-a is not found or access is denied"]
CRASH = [-9 % 256, "", ""]
FAILURES = [EXPIRED, NETWORK, QUOTA, OTHER, ZONE, CRASH]
ACTIVE, WAITING, SUSPENDED = ([0, s, ""] for s in ("ACTIVE", "WAITING_FOR_RESOURCES", "SUSPENDED"))
RUNNING, DONE, SAVED = ([0, s, "SSH: connecting"] for s in ("running", "0", "75"))
STARTED = ["scp", "install", "end", "train"]


@pytest.fixture
def launch(tmp_path, monkeypatch, capfd):
    """Runs an action against answers: what was asked, the pauses, the end's message or None."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("launch_tpu_vm")
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(
        f'#!{shutil.which("bash")}\nexec {sys.executable} -SE {fake_gcloud.__file__} "$@"\n'
    )
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gcloud.parent}:{os.environ['PATH']}")
    calls, answers_file, pauses = tmp_path / "calls", tmp_path / "answers", []
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    monkeypatch.setenv("FAKE_ANSWERS", str(answers_file))
    monkeypatch.setattr(script, "time", types.SimpleNamespace(sleep=pauses.append))
    # Their own tests are below and in test_launch.py.
    monkeypatch.setattr(script, "check_arguments", lambda arguments: "configs/dit_xl.py")

    def run(action, *options, **answers):
        answers_file.write_text(json.dumps(answers))
        argv = ["launch_tpu_vm.py", action, "--name=dit", "--zone=us-west4-a", *options]
        monkeypatch.setattr(sys, "argv", [*argv, "--", "--config=configs/dit_xl.py"])
        message = None
        try:
            script.main()
        except SystemExit as end:
            message = end.code
        asked = calls.read_text().split() if calls.exists() else []
        return asked, pauses, message

    return run


def test_a_request_is_created_once_where_there_is_none(launch):
    asked, _, message = launch(
        "keep", describe=[NOT_FOUND, WAITING, ACTIVE], status=[RUNNING, DONE]
    )
    assert message is None
    assert [a for a in asked if a not in ("describe", "status")] == ["create", *STARTED]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_question_that_fails_at_first_neither_deletes_nor_creates(launch, failure):
    asked, pauses, message = launch(
        "keep", describe=[failure, failure, ACTIVE], status=[RUNNING, DONE]
    )
    assert message is None and pauses[:2] == [10, 30]
    assert [a for a in asked if a not in ("describe", "status")] == STARTED


@pytest.mark.parametrize("failure", FAILURES)
def test_a_question_that_fails_in_training_stops_nothing(launch, failure):
    asked, pauses, message = launch(
        "keep",
        describe=[ACTIVE, ACTIVE, failure, failure, failure, ACTIVE],
        status=[RUNNING, failure, [0, "", ""], RUNNING, DONE],
    )
    assert message is None and {10, 30, 60} <= set(pauses)
    assert [a for a in asked if a not in ("describe", "status")] == STARTED


@pytest.mark.parametrize("failure", [EXPIRED, OTHER])
@pytest.mark.parametrize("answers", ["describe", "status"])
def test_a_question_that_fails_for_an_hour_ends_with_a_line(launch, failure, answers):
    describe = [ACTIVE, ACTIVE, failure] if answers == "describe" else [ACTIVE]
    asked, pauses, message = launch("keep", describe=describe, status=[RUNNING, failure])
    assert message.startswith("error: `gcloud compute tpus") and "\n" not in message
    assert "11 times" in message and "left as they are" in message
    assert 3000 < sum(pauses) < 4200 and pauses == sorted(pauses[:-10]) + pauses[-10:]
    assert [a for a in asked if a not in ("describe", "status")] == STARTED


def test_a_slice_that_was_taken_away_is_requested_anew(launch):
    gone = [ACTIVE, ACTIVE, SUSPENDED, SUSPENDED]
    asked, _, message = launch(
        "keep", describe=[*gone, NOT_FOUND, ACTIVE], status=[RUNNING, EXPIRED, DONE]
    )
    assert message is None
    steps = [a for a in asked if a not in ("describe", "status")]
    assert steps == [*STARTED, "delete", "create", *STARTED]


def test_the_answer_to_a_creation_may_be_lost_on_the_way(launch):
    asked, _, message = launch(
        "keep", describe=[NOT_FOUND, WAITING, ACTIVE], create=[NETWORK], status=[DONE]
    )
    assert message is None and asked.count("create") == 1


def test_nothing_is_created_while_a_deletion_fails(launch):
    asked, _, message = launch("keep", describe=[SUSPENDED], delete=[EXPIRED])
    assert "delete dit` ended with status 1, 5 times" in message
    assert asked.count("delete") == 5 and "create" not in asked


@pytest.mark.parametrize("step", ["scp", "install", "end", "train"])
def test_a_step_that_fails_is_taken_again(launch, step):
    asked, _, message = launch(
        "keep", describe=[ACTIVE], status=[DONE], **{step: [NETWORK, [0, "", ""]]}
    )
    assert message is None and "delete" not in asked
    assert asked.count(step) == 2 and asked.count("train") == (2 if step == "train" else 1)


def test_a_failed_setup_ends_before_training(launch):
    asked, _, message = launch("keep", "--setup=SETUP", describe=[ACTIVE], setup=[[1, "", ""]])
    assert "ended with status 1, 5 times" in message
    assert "train" not in asked and "end" not in asked


def test_main_pys_own_failure_is_named_and_a_save_is_gone_on_from(launch):
    asked, _, message = launch("keep", describe=[ACTIVE], status=[SAVED, [0, "2", ""]])
    assert "main.py ended with status 2" in message and asked.count("train") == 2


@pytest.mark.parametrize("action", ["status", "create", "install", "train", "stop", "delete"])
def test_a_single_step_ends_with_its_failure(launch, action):
    verbs = ("describe", "create", "delete", "scp", "end")
    asked, pauses, message = launch(action, **{verb: [EXPIRED] for verb in verbs})
    assert message.startswith("error: `gcloud compute tpus") and "status 1" in message
    assert len(asked) == 1 and pauses == []


def test_status_tells_none_from_a_failure(launch, capfd):
    launch("status", describe=[NOT_FOUND])
    assert capfd.readouterr().out == "no such request\n"


def test_a_missing_gcloud_is_one_line(launch, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("launch_tpu_vm.check_is_sent", lambda file: None)
    asked, _, message = launch("keep")
    assert message.startswith("error: there is no program `gcloud`") and asked == []


def test_the_archive_is_written_where_nobody_else_can_write(launch, monkeypatch):
    written = []
    real = subprocess.run

    def run(words, **options):
        if "archive" in words:
            path = pathlib.Path(next(w for w in words if w.startswith("--output=")).split("=")[1])
            written.append((path, path.parent.stat().st_mode & 0o777))
        return real(words, **options)

    monkeypatch.setattr(subprocess, "run", run)
    launch("install")
    [(path, mode)] = written
    assert mode == 0o700 and not path.parent.exists()


KEEP = ["launch_tpu_vm.py", "keep", "--name=dit", "--zone=z"]
NO_FILE = ["--config=configs/no_such.py", "--workdir=w"]
FILE = ["--config=configs/dit_xl.py", "--workdir=w"]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (KEEP, NO_FILE, "--config=configs/no_such.py: there is no"),
        (KEEP, [*FILE, "--config.train.batch=8"], "'train.batch'"),
        (KEEP, [*FILE, "--config.train.batch_size=0"], "at least 1"),
        (KEEP, FILE[:1], "workdir"),
        (KEEP, [*FILE, "--mode=nonsense"], "unknown mode 'nonsense'"),
        (KEEP, [*FILE, "left"], "unexpected arguments: left"),
        (KEEP, [*FILE, "--config.sample.checkpoint=C"], "config.sample.checkpoint is given on"),
        (KEEP, [FILE[0], "--workdir=no://b/w", "--config.sample.checkpoint=C"], "be read from"),
        (["launch_tpu_vm.py", "train", "--name=dit", "--zone=z"], NO_FILE, "there is no"),
        (
            ["launch_gke.py", "create", "--name=d", "--zone=z", "--cluster=c"],
            NO_FILE,
            "there is no",
        ),
    ],
)
def test_main_pys_arguments_are_checked_before_anything_is_rented(script, arguments, message):
    command = [sys.executable, f"scripts/{script[0]}", *script[1:], "--dry-run", "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr


def test_the_config_of_a_local_workdir_is_not_sent(tmp_path):
    write_config(tiny.config("digits_dit"), str(tmp_path))
    command = [sys.executable, f"scripts/{KEEP[0]}", *KEEP[1:], "--dry-run", "--"]
    command += [f"--config={tmp_path}", "--workdir=gs://b/w"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"--config={tmp_path} is a folder of this machine" in done.stderr


def test_the_config_of_a_bucket_needs_no_commit(launch, monkeypatch):
    monkeypatch.setattr("launch_tpu_vm.check_arguments", lambda arguments: "gs://b/w")
    asked, _, message = launch("train")
    assert message is None and asked == ["end", "train"]


def remote(script, name):
    return getattr(importlib.import_module(script), name)


@pytest.mark.parametrize(
    ("files", "stop", "status"),
    [
        ({}, "nothing runs here", None),
        ({"train.pid": "RUNNING"}, "saving and ending", "running"),
        ({"train.pid": "RUNNING", "train.status": "0"}, "nothing runs here", "0"),
        ({"train.pid": "999999999"}, "nothing runs here", "137"),
    ],
)
def test_what_is_asked_on_a_host(launch, tmp_path, files, stop, status):
    """The very lines: a number that another process has by now is left alone."""
    folder = tmp_path / "lightningdit_jax"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        for name, content in files.items():
            (folder / name).write_text(content.replace("RUNNING", str(process.pid)) + "\n")

        def run(name):
            line = ["bash", "-c", remote("launch_tpu_vm", name)]
            return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

        answer = run("STATUS")
        assert (answer.returncode, answer.stdout.strip()) == (int(status is None), status or "")
        asked = run("STOP")
        assert (asked.returncode, asked.stdout.strip()) == (0, stop)
        assert (process.wait(20) == -15) if stop.startswith("saving") else process.poll() is None
        process.kill()
        assert run("END").returncode == 0 and not (folder / "train.pid").exists()


def test_a_status_that_is_written_a_moment_after_the_end_counts(launch, tmp_path):
    folder = tmp_path / "lightningdit_jax"
    folder.mkdir()
    (folder / "train.pid").write_text("999999999\n")
    late = f"(sleep .3; echo 0 > {folder}/train.status) & {remote('launch_tpu_vm', 'STATUS')}"
    line = ["bash", "-c", late]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "0\n"


def test_a_process_that_ended_without_a_status_is_started_anew(launch):
    asked, _, message = launch("keep", describe=[ACTIVE], status=[RUNNING, [0, "137", ""], DONE])
    assert message is None and "delete" not in asked and asked.count("train") == 2


def test_a_host_without_the_folder_is_a_failure(launch, tmp_path):
    for name in ("STATUS", "STOP", "END"):
        line = ["bash", "-c", remote("launch_tpu_vm", name)]
        assert subprocess.run(line, capture_output=True, cwd=tmp_path, check=False).returncode
