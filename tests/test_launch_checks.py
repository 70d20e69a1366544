"""What a launch script refuses before anything is rented, by main.py's own checks; and what it
sends to the hosts and asks there.
"""

import subprocess

import pytest
from absl import flags
from absl.testing import flagsaver

from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.commands import main  # defines the flags, which are then saved and restored
from tests import tiny
from tests.fake_gcloud import ROOT, Scripts


@pytest.fixture
def scripts(monkeypatch):
    """The scripts with their checks; none may run a command of a cloud."""
    monkeypatch.chdir(ROOT)
    scripts = Scripts(monkeypatch)

    def run(words, captured, seconds):
        raise AssertionError(f"{words} before the checks")

    monkeypatch.setattr(scripts.slice_commands, "run", run)
    assert main.CONFIG.name in flags.FLAGS
    saved = flagsaver.save_flag_values()
    flags.FLAGS.unparse_flags()
    yield scripts
    flagsaver.restore_flag_values(saved)


@pytest.fixture
def commands(scripts):
    return scripts.slice_commands


@pytest.fixture
def refusal(scripts, capsys):
    """The one line that a script refuses its arguments with, as main.py would: with status 2."""

    def run(*argv):
        assert scripts.main(*argv) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
        return said.err

    return run


KEEP = ["launch_tpu_vm", "keep", "--name=dit", "--zone=z"]
TRAIN = ["launch_tpu_vm", "train", "--name=dit", "--zone=z"]
GKE = ["launch_gke", "create", "--name=d", "--zone=z", "--cluster=c"]
NO_FILE = ["--config=configs/no_such.py", "--workdir=gs://b/w"]
FILE = ["--config=configs/dit_xl.py", "--workdir=gs://b/w"]


@pytest.mark.parametrize("script", [KEEP, TRAIN, GKE])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (NO_FILE, "--config=configs/no_such.py: there is no"),
        ([*FILE, "--config.train.batch=8"], "'train.batch'"),
        ([*FILE, "--config.train.batch_size=0"], "at least 1"),
        (FILE[:1], "workdir"),
        ([*FILE, "--mode=nonsense"], "unknown mode 'nonsense'"),
        ([*FILE, "left"], "unexpected arguments: left"),
        ([FILE[0], "--workdir=w", "--config.sample.checkpoint=C"], "sample.checkpoint is given on"),
        ([FILE[0], "--workdir=no://b/w", "--config.sample.checkpoint=C"], "be read from"),
    ],
)
def test_arguments_are_checked_before_anything_is_rented(refusal, script, arguments, message):
    assert message in refusal(*script, "--", *arguments)


@pytest.mark.parametrize("script", [KEEP, GKE])
def test_checks_that_are_interrupted_end_with_a_line(scripts, script, monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(main, "parse_flags", interrupted)
    assert scripts.main(*script, "--", *FILE) == 130
    assert capsys.readouterr().err == "ended by SIGTERM\n"


@pytest.mark.parametrize("script", [KEEP, GKE])
@pytest.mark.parametrize("workdir", ["runs/dit", "w"])
def test_a_workdir_that_goes_with_the_machine_is_refused(refusal, script, workdir):
    refused = refusal(*script, "--", FILE[0], f"--workdir={workdir}")
    assert refused.startswith(f"error: --workdir={workdir} would lie on the disks of the ")


@pytest.mark.parametrize("workdir", ["gs://b/w", "/mnt/bucket/w"])
def test_a_workdir_that_lasts_is_taken(scripts, workdir):
    scripts.main(*KEEP, "--dry-run", "--", FILE[0], f"--workdir={workdir}")


def test_a_config_may_be_given_by_name(scripts, monkeypatch):
    sent = []
    monkeypatch.setattr(scripts.launch_tpu_vm, "check_is_sent", sent.append)
    for name in ("dit_xl", "configs/dit_xl.py", "paper:xl_800ep_cfg"):
        scripts.main(*KEEP, "--dry-run", "--", f"--config={name}", "--workdir=gs://b/w")
        flags.FLAGS.unparse_flags()
    assert sent == ["configs/dit_xl.py", "configs/dit_xl.py", "configs/paper.py"]


def test_the_config_of_a_local_workdir_is_not_sent(refusal, tmp_path):
    write_config(tiny.config("digits_dit"), str(tmp_path))
    refused = refusal(*KEEP, "--dry-run", "--", f"--config={tmp_path}", "--workdir=gs://b/w")
    assert f"--config={tmp_path} is a folder of this machine" in refused


def test_a_config_that_is_not_committed_is_not_sent(scripts, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        scripts.launch_tpu_vm.check_is_sent(str(tmp_path / "config.py"))
    assert "is not in the last commit" in capsys.readouterr().err


def test_the_config_of_a_bucket_needs_no_commit(scripts):
    scripts.launch_tpu_vm.check_is_sent("gs://b/w")


def test_what_is_no_clone_is_one_line(scripts, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scripts.launch_tpu_vm, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit, match="2"):
        scripts.launch_tpu_vm.check_is_sent("gs://b/w")
    assert "is no clone of the repository" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no program `git` on this machine's PATH"):
        scripts.launch_tpu_vm.check_is_sent("gs://b/w")


@pytest.mark.parametrize(
    ("files", "stop", "status"),
    [
        ({}, "nothing runs here", None),
        ({"train.pid": "RUNNING"}, "saving and ending", "running"),
        ({"train.pid": "RUNNING", "train.status": "0"}, "nothing runs here", "0"),
        ({"train.pid": "999999999"}, "nothing runs here", "137"),
    ],
)
def test_what_is_asked_on_a_host(commands, tmp_path, files, stop, status):
    """The very lines: a number that another process has by now is left alone."""
    folder = tmp_path / "lightningdit_jax"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        for name, content in files.items():
            (folder / name).write_text(content.replace("RUNNING", str(process.pid)) + "\n")

        def run(name):
            line = ["bash", "-c", getattr(commands, name)]
            return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

        answer = run("STATUS")
        assert (answer.returncode, answer.stdout.strip()) == (int(status is None), status or "")
        asked = run("STOP")
        assert (asked.returncode, asked.stdout.strip()) == (0, stop)
        assert (process.wait(20) == -15) if stop.startswith("saving") else process.poll() is None
        process.kill()
        assert run("END").returncode == 0 and not (folder / "train.pid").exists()


def test_a_status_that_is_written_a_moment_after_the_end_counts(commands, tmp_path):
    folder = tmp_path / "lightningdit_jax"
    folder.mkdir()
    (folder / "train.pid").write_text("999999999\n")
    late = f"(sleep .3; echo 0 > {folder}/train.status) & {commands.STATUS}"
    line = ["bash", "-c", late]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "0\n"


def test_a_host_without_the_folder_is_a_failure(commands, tmp_path):
    for name in ("STATUS", "STOP", "END"):
        line = ["bash", "-c", getattr(commands, name)]
        assert subprocess.run(line, capture_output=True, cwd=tmp_path, check=False).returncode
