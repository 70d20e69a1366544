"""Real commands that are interrupted, meet each other, or meet storage that fails.

After each the same command goes on, and ends with the bits of one that met nothing.
"""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from lightningdit_jax import checkpoint
from tests import tiny
from tests.forked_commands import answers
from tests.test_main import ROOT, environment, final_arrays, records

ENDING = "{}: ending when this step is done and saved; a second one ends at once\n"
GOES_ON = "the same command goes on from the newest checkpoint, or begins again without one"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # where one may mount


def tell(stories, *, mounts=False):
    """The answers of each story, see forked_commands."""
    return answers(stories, environment(devices=1), within=NAMESPACE if mounts else ())


def may_mount():
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def training(workdir, latents, when=(), **changes):
    changes = {"data__path": latents, "train__log_every_steps": 1, "train__num_steps": 8} | changes
    flags = ["--config=configs/digits_dit.py", f"--workdir={workdir}", *tiny.flags(**changes)]
    return {"arguments": flags, "when": when}


def assert_same_run(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, final_arrays(workdir), final_arrays(other))
    assert records(workdir) == records(other)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"))


def test_a_training_that_is_interrupted_and_met_by_another(tmp_path, latents):
    both, met = tmp_path / "both", tmp_path / "met"
    # The checkpoints before are far apart, so what a signal saves is needed.
    rare = {"train__checkpoint_every_steps": 50}
    second = training(met, latents)
    results = tell(
        [
            [
                training(both, latents, [["plan for", "SIGTERM"]], **rare),
                training(both, latents, [["step 3/", "SIGINT"]], **rare),
                training(both, latents, **rare),
            ],
            [
                training(met, latents, [["step 3/", second], ["step 3/", "SIGKILL"]], **rare),
                training(met, latents, **rare),
            ],
        ]
    )
    (compiling, stepping, ended), (refused, killed, restarted) = results

    assert compiling[0] == 75 and compiling[2] == f"SIGTERM: ended; {GOES_ON}\n"
    assert "first step" not in compiling[1]
    assert stepping[0] == 75 and stepping[2] == ENDING.format("SIGINT")
    assert "ending, as SIGINT asks; restart to go on" in stepping[1].splitlines()[-1]
    assert ended[0] == 0 and "resumed from step" in ended[1]
    assert refused[0] == 2 and refused[2].count("\n") == 1
    assert f"{met} is in use by --mode=train, process " in refused[2]
    assert killed[0] == -9
    # Without a checkpoint it began again: what the other went on with is compared with it.
    assert restarted[0] == 0 and "resumed" not in restarted[1]
    assert not list(met.glob(".*.lock"))
    assert_same_run(both, met)


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="a file system of its own cannot be mounted here")
def test_a_disk_that_is_full(tmp_path, latents):
    """The disk is a small one in memory, which nobody sees but these commands."""
    disk, result = tmp_path / "disk", tmp_path / "result"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2m tmpfs {disk}"
    begun = training(disk / "w", latents, train__keep_checkpoints=9)
    [[full, filled, done]] = tell(
        [
            [
                {"shell": mount},
                begun,
                {"shell": f"dd if=/dev/zero of={disk}/fill bs=1k 2>/dev/null || true"},
                begun,
                {"shell": f"rm {disk}/fill; mount -o remount,size=50m {disk}"},
                begun,
                {"shell": f"cp -r {disk}/w {result}"},
            ]
        ],
        mounts=True,
    )
    assert full[0] == 74 and full[2] == (
        f"error: {disk}/w/checkpoints: No space left on device (ENOSPC); make room; {GOES_ON}\n"
    )
    assert filled[0] == 74 and filled[2].count("\n") == 1
    assert "No space left on device (ENOSPC); make room" in filled[2]
    assert done[0] == 0 and done[2] == "" and "resumed from step" in done[1]
    assert not [path for path in (result / "checkpoints").iterdir() if not path.name.isdigit()]
    [[undisturbed]] = tell([[training(tmp_path / "whole", latents)]])
    assert undisturbed[0] == 0
    assert_same_run(result, tmp_path / "whole")


# A key that a mode does not read is refused.
READ_BY = {
    "train": lambda key: not key.startswith(("extract", "sample", "sweep", "evaluate")),
    "extract": lambda key: key.startswith("extract") or key == "data.split",
    "sample": lambda key: key.startswith("sample"),
    "sweep": lambda key: key.startswith("sweep") or key in SAMPLER,
    "evaluate": lambda key: key.startswith("evaluate") or key == "data.split",
}
SAMPLER = ("sample.tokenizer", "sample.num_steps", "sample.batch_size")


def jobs(folder):
    """The arguments of every command of a tokenizer and a generator of digits, in order."""
    tokenizer, latents, generator = folder / "tokenizer", folder / "latents", folder / "generator"
    rare = {"train.checkpoint_every_steps": 50, "train.log_every_steps": 1}
    vae = {**tiny.TOKENIZER, **rare, "extract.path": latents, "train.num_steps": 4}
    dit = {
        **tiny.GENERATOR,
        **rare,
        "data.path": latents,
        "model.input_size": 8,
        "sample.tokenizer": tokenizer,
        "sample.num_samples": 24,
        "sample.num_steps": 3,
        "sample.batch_size": 8,
        "sample.output": "both",
        "sweep.num_samples": 16,
        "sweep.cfg_scale": "(1.0,2.0,3.0)",
    }

    def job(name, workdir, flags, mode):
        given = [f"--config.{key}={flags[key]}" for key in flags if READ_BY[mode](key)]
        return [f"--config=configs/{name}.py", f"--workdir={workdir}", f"--mode={mode}", *given]

    source = ROOT / "tests" / "testdata" / "golden" / "checkpoints" / "release_full.pt"
    return {
        "train a tokenizer": job("digits_vavae", tokenizer, vae, "train"),
        "extract": job("digits_vavae", tokenizer, vae, "extract"),
        "evaluate": job("digits_vavae", tokenizer, vae, "evaluate"),
        "train a generator": job("digits_dit", generator, dit, "train"),
        "sample": job("digits_dit", generator, dit, "sample"),
        "sweep": job("digits_dit", generator, dit, "sweep"),
        "convert": ["--src", str(source), "--dst", str(folder / "converted")],
    }


# Of each job, signs of moments in it.
MOMENTS = {
    "train a tokenizer": ["listening", "plan for", "step 2/"],
    "extract": ["listening", "/{}/latents/extraction.json", "/{}/latents/*_shard000.safetensors"],
    "evaluate": ["listening", "was trained otherwise"],
    "train a generator": ["listening", "plan for", "step 2/"],
    "sample": ["listening", "/{}/generator/samples.parts/*.npy"],
    "sweep": ["listening", "/{}/generator/sweep.json"],
    "convert": ["listening", "wo_shift"],
}


def as_story(commands, moments):
    """Each interrupted at its moments, by both signals in turn, then to its end; and what came."""
    story, sent = [], []
    for name, arguments in commands.items():
        program = "convert_torch_weights.py" if name == "convert" else "main.py"
        command = {"arguments": arguments, "program": program}
        for moment in moments.get(name, ()):
            number = ("SIGINT", "SIGTERM")[len(sent) % 2]
            story.append({**command, "when": [[moment, number]]})
            sent.append((name, number))
        story.append(command)
        sent.append((name, None))
    return story, sent


def content(folder):
    """What the jobs wrote, without times and paths."""
    found = {}
    for workdir in ("tokenizer", "generator", "converted"):
        path = checkpoint.find_checkpoint(str(folder / workdir))
        reader = checkpoint.ocp.StandardCheckpointer()
        for item in checkpoint.item_names(path):
            if (path / item / "metadata").exists():
                continue  # JSON, which says when and where
            found[workdir, item] = jax.tree.map(np.asarray, reader.restore(path / item))
    pictures = (folder / "generator" / "samples").iterdir()
    for path in [*(folder / "latents").glob("*.safetensors"), *pictures]:
        found[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    with np.load(folder / "generator" / "samples.npz") as file:
        found["samples"] = dict(file)
    rows = json.loads((folder / "generator" / "sweep.json").read_text())
    found["rows"] = [row["numbers"] for row in rows]
    evaluation = json.loads((folder / "tokenizer" / "evaluation.json").read_text())
    found["evaluation"] = {k: v for k, v in evaluation.items() if k != "of"}
    return {str(key): value for key, value in found.items()}


@pytest.mark.slow
def test_every_job_goes_on_after_signals(tmp_path):
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    moments = {
        name: [sign.format(str(interrupted)[1:]) for sign in signs]
        for name, signs in MOMENTS.items()
    }
    undisturbed, _ = as_story(jobs(whole), {})
    story, sent = as_story(jobs(interrupted), moments)
    answers, met = tell([undisturbed, story])
    for status, _, errors in answers:
        assert status == 0, errors
    for (name, number), (status, out, errors) in zip(sent, met, strict=True):
        if number is None:
            assert status == 0, (name, errors)
            continue
        assert status == 75, (name, number, status, out, errors)
        errors = errors.rpartition("\r")[2]  # behind a bar of progress
        if errors == ENDING.format(number):
            assert f"as {number} asks; restart to go on" in out, name
        else:
            assert errors.startswith(f"{number}: ended; ") and "the same command" in errors, name
            assert errors.count("\n") == 1, (name, errors)
    jax.tree.map(np.testing.assert_array_equal, content(interrupted), content(whole))
    assert not [p for p in interrupted.rglob(".*") if p.suffix in (".tmp", ".lock")]


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="a file system of its own cannot be mounted here")
def test_every_job_goes_on_after_a_full_disk(tmp_path):
    """Once with no room at all, once with some kilobytes: first thing, or amid the work."""
    whole, disk, result = tmp_path / "whole", tmp_path / "disk", tmp_path / "result"
    disk.mkdir()
    undisturbed, _ = as_story(jobs(whole), {})
    story = [{"shell": f"mount -t tmpfs -o size=64m tmpfs {disk}"}]
    for command in as_story(jobs(disk), {})[0]:
        for room in (0, 20):
            fill = f"cat /dev/zero 2>/dev/null > {disk}/fill; truncate -s -{room}K {disk}/fill"
            story += [{"shell": fill}, command, {"shell": f"rm {disk}/fill"}]
        if "--mode=evaluate" in command["arguments"]:
            story += [{"shell": f"mount -o remount,ro {disk}"}, command]
            story.append({"shell": f"mount -o remount,rw {disk}"})
        story.append(command)
    [met] = tell([[*story, {"shell": f"cp -r {disk} {result}"}]], mounts=True)
    assert [status for status, *_ in tell([undisturbed])[0]] == [0] * len(undisturbed)
    answers = iter(met)
    for name in jobs(disk):
        for _ in range(3 if name == "evaluate" else 2):
            status, out, errors = next(answers)
            assert status == 74, (name, status, out, errors)
            line = errors.rpartition("\r")[2]
            assert line.startswith(f"error: {disk}/") and line.count("\n") == 1, (name, errors)
            assert "make room; " in line or "(EROFS); mount it writable" in line, (name, errors)
            if name == "evaluate":
                assert "reconstruction_psnr" in out
        status, out, errors = next(answers)
        assert status == 0, (name, errors)
    jax.tree.map(np.testing.assert_array_equal, content(result), content(whole))


@pytest.mark.slow
def test_what_a_terminal_sends_to_all_ends_only_the_main_process(tmp_path, latents):
    long = {"train__num_steps": 100_000, "train__checkpoint_every_steps": 99_999}
    command = training(tmp_path / "w", latents, data__num_workers=2, **long)["arguments"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(devices=1),
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)  # once the workers have ended too
    assert process.returncode == 75 and errors == ENDING.format("SIGINT")
    assert "ending, as SIGINT asks; restart to go on" in out
