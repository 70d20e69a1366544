"""--mode=verify on the workdir of a run, on samples and on latents: what is damaged is named."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.data.latents import shard_name
from lightningdit_jax.inference.sampling.store import SampleStore
from tests import tiny
from tests.training.loop_cases import run

SUMMARY = "{} whole, {} damaged, {} not verified"


def lines_of(workdir="", latents=""):
    """(what verify returned, its lines)."""
    lines = []
    config = tiny.config("digits_dit", data__path=str(latents))
    return verify(config, str(workdir), lines.append), lines


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with its best weights, the latents and half of the samples drawn."""
    workdir = tmp_path_factory.mktemp("w")
    scores = {5: 3.0, 10: 1.0, 12: 2.0}
    run(
        workdir,
        evaluator=lambda step, state: {"fid": scores[step]},
        evaluate_every_steps=5,
        best_metric="fid",
    )
    (workdir / "latents").mkdir()
    tiny.write_latents(workdir / "latents")
    images = np.zeros((4, 2, 2, 3), np.uint8)
    whole = SampleStore(epath.Path(workdir), {"seed": 0}, 4)
    whole.write(0, images)
    whole.write_npz(np.arange(4))
    whole.finish({"arr_0_crc32": 0x8B2A2F7B})  # not of these
    SampleStore(epath.Path(workdir), {"seed": 1}, 8).write(0, images)
    return workdir


def test_each_thing_has_a_line(workdir):
    damaged, lines = lines_of(workdir)
    found = {line.split(": ")[0].removeprefix(f"{workdir}/"): line for line in lines[:-1]}
    assert found["checkpoints/12"].endswith("whole (step 12, 6 arrays of 0.0 MiB)")
    assert {"checkpoints/9", "best/10", "metrics.jsonl", "latents"} < found.keys()
    assert found["metrics.jsonl"].endswith("whole (6 records)")
    assert "24 latents" in found["latents"]
    assert "whole" in found[f"latents/{shard_name(0, 1)}"]
    assert "holds other samples than it describes" in found["samples.json"]
    assert damaged == 1 and lines[-1] == f"{len(lines) - 2} whole, 1 damaged, 0 not verified"


def test_a_relative_path_that_leads_up_is_no_damage(workdir, monkeypatch):
    monkeypatch.chdir(workdir / "latents")
    damaged, lines = lines_of("../checkpoints/12")
    assert damaged == 0 and "whole (step 12" in lines[0] and lines[0].startswith("../")


DAMAGE = {
    "checkpoints/9/loop/metadata": r"checkpoints/9: DAMAGED: its JSON ",
    "checkpoints/12/params/d/*": r"checkpoints/12: DAMAGED: .*('params/w'|item 'params')",
    "best/10/ema/d/*": r"best/10: DAMAGED: .*('ema/w'|item 'ema')",
    "metrics.jsonl": r"metrics\.jsonl: DAMAGED: lines that are no records: 3",
    "latents/latents_rank00_shard000.safetensors": r"shard000.safetensors: DAMAGED: it is not as",
    "latents/latents_stats.safetensors": r"latents_stats.safetensors: DAMAGED: ",
    "samples.parts/*.npy": r"\.npy: DAMAGED: .* is not as it was written",
}


@pytest.mark.parametrize("files", DAMAGE)
def test_what_is_damaged_is_named(workdir, files):
    before = lines_of(workdir)[0]
    paths = list(workdir.glob(files))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents):
        third = len(b"".join(content.splitlines(keepends=True)[:2]))
        flip(path, third if files == "metrics.jsonl" else len(content) // 2)
    damaged, lines = lines_of(workdir)
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    assert damaged == before + 1
    assert any(re.search(DAMAGE[files], line) for line in lines), lines


def test_old_checkpoints_and_foreign_latents_are_not_verified(tmp_path):
    path = tmp_path / "old"
    arrays = {"params": {"w": np.ones(2, np.float32)}}
    save_checkpoint(str(path), arrays, {"meta": {"format_version": 1}})
    assert lines_of(path) == (0, [f"{path}: whole (1 array of 0.0 MiB)", SUMMARY.format(1, 0, 0)])
    (path / "digests" / "process_0.json").unlink()
    assert lines_of(path)[0] == 1
    shutil.rmtree(path / "digests")
    meta = json.loads((path / "meta" / "metadata").read_text())
    del meta["digests"]
    (path / "meta" / "metadata").write_text(json.dumps(meta))
    assert lines_of(path)[1][-1] == SUMMARY.format(0, 0, 1)
    latents = tiny.write_latents(tmp_path)
    (latents / "extraction.rank00.json").unlink()
    assert lines_of(latents=latents)[1][-1] == SUMMARY.format(1, 0, 3)


def test_nothing_to_verify_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"give --workdir=WORKDIR, or --config\.data"):
        lines_of()
    with pytest.raises(ValueError, match="holds nothing to verify"):
        lines_of(tmp_path)


def test_the_command_needs_no_config(tmp_path):
    latents = tiny.write_latents(tmp_path)
    flip(latents / shard_name(0, 0), 2000)
    command = [sys.executable, "main.py", "--mode=verify", f"--config.data.path={latents}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"{shard_name(0, 0)}: DAMAGED: it is not as it was written" in done.stdout
    assert done.stdout.endswith("3 whole, 1 damaged, 0 not verified\n") and not done.stderr
