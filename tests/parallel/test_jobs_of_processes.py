"""Training by several real processes: preempted, killed, failing, and restored by another number.

Every job is several processes of this machine that talk as those of a pod do.
"""

import json
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from lightningdit_jax import checkpoint
from lightningdit_jax.checkpoint_reading import array_metadata
from lightningdit_jax.data.latents import LatentShards, write_shard
from lightningdit_jax.data.pipeline import LatentBatches, make_pipeline
from lightningdit_jax.metrics_log import TIMED
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer
from tests.parallel import processes
from tests.parallel.processes import finish, kill_all, wait_for


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"))


def start(workdir, latents, count, *, devices=2, fail=None, **changes):
    defaults = {"model__depth": 1, "train__num_steps": 24, "train__checkpoint_every_steps": 5}
    changes = defaults | changes
    environment = {} if fail is None else {"FAIL_PROCESS": str(fail)}
    module = "tests.parallel.train_process"
    arguments = (workdir, latents, json.dumps(changes))
    return processes.start(module, *arguments, processes=count, devices=devices, **environment)


def run(*arguments, **options):
    """Trains to the end; returns the first process's output."""
    statuses, outputs = finish(start(*arguments, **options))
    assert set(statuses) == {0}, "\n".join(outputs)
    return outputs[0]


def arrays(workdir, items=("params", "ema", "opt_state", "step")):
    """Arrays of the newest checkpoint, whatever the mesh it was saved from."""
    found = checkpoint.find_checkpoint(str(workdir))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def read(item):
        saved = array_metadata(found, item)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved
        )
        return checkpoint.read_arrays(found, item, abstract)

    return {item: read(item) for item in items}


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def assert_same_bits(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, arrays(workdir), arrays(other))
    assert records(workdir) == records(other)
    assert [r["step"] for r in records(workdir)] == list(range(1, len(records(workdir)) + 1))


def end_with_sigterm(workdir, latents, count, **mesh):
    """Starts a long run, sends SIGTERM to its last process, and returns the step that is saved."""
    long = {"train__num_steps": 100_000, "train__checkpoint_every_steps": 99_999}
    job = start(workdir, latents, count, **long, **mesh)
    wait_for("step 3/", job[0])
    job[-1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(job)
    assert statuses == [75] * count, "\n".join(outputs)
    assert "as SIGTERM asks" in outputs[0]
    return int(checkpoint.find_checkpoint(str(workdir)).name)


@pytest.mark.slow
def test_sigterm_to_one_saves_and_ends_all(tmp_path, latents):
    saved = end_with_sigterm(tmp_path, latents, 2, mesh__fsdp=2)
    assert saved > 3 and records(tmp_path)[-1]["step"] == saved


@pytest.mark.slow
def test_all_processes_draw_a_picture_and_one_writes_it(tmp_path, latents):
    save_tokenizer(tmp_path / "tokenizer")
    changes = {"train__num_steps": 2, "train__picture_every_steps": 2, "sample__num_steps": 2}
    changes |= {"sample__tokenizer": str(tmp_path / "tokenizer")}
    found = []
    for count in (2, 1):
        workdir = tmp_path / str(count)
        output = run(workdir, latents, count, mesh__fsdp=2, **changes)
        assert output.count("2.png") == 1
        assert [path.name for path in (workdir / "pictures").iterdir()] == ["2.png"]
        start = json.loads((workdir / "starts.jsonl").read_text())
        assert (start["num_processes"], start["num_devices"]) == (count, 2 * count)
        found.append(np.asarray(Image.open(workdir / "pictures" / "2.png")).astype(int))
    assert found[0].std() > 10
    np.testing.assert_allclose(*found, atol=1)


@pytest.mark.slow
def test_bad_latents_of_every_process_are_named(tmp_path):
    """In the order of one process's batches, which the processes share."""
    folder = tiny.write_latents(tmp_path)
    shards = LatentShards(folder)
    latents = shards.read_stored(np.arange(len(shards)), np.zeros(len(shards), bool))
    latents[[2, 11, 12, 20]] = np.nan
    for shard, rows in enumerate((slice(0, 8), slice(8, None))):  # as they were
        each = latents[rows].transpose(0, 2, 3, 1)
        write_shard(folder, 0, shard, each, each, shards.labels[rows])

    many = {"nonfinite": "skip", "max_nonfinite": 100, "num_steps": 6}
    changes = {f"train__{name}": value for name, value in many.items()}
    output = run(tmp_path / "workdir", folder, 2, mesh__fsdp=2, **changes)

    config = tiny.config("digits_dit")

    def found(**process):
        """By step; two epochs of three batches."""
        pipeline = make_pipeline(
            LatentBatches(LatentShards(folder)),
            global_batch_size=config.train.batch_size,
            seed=config.seed,
            flip=config.data.flip,
            num_threads=1,
            prefetch_batches=1,
            **process,
        )
        every = {k + 1: pipeline.find_unfit({"next_index": k}) for k in range(6)}
        return {step: records for step, records in every.items() if records}

    assert all(found(process_index=i, process_count=2) for i in range(2))
    alone = found()
    assert sum(map(len, alone.values())) == 2 * 4
    said = [line for line in output.splitlines() if "not finite, because" in line]
    for line, (step, records) in zip(said, alone.items(), strict=True):
        assert line.startswith(f"step {step}: ")
        assert f"because its batch is not: {'; '.join(records)}. skip; extract" in line


@pytest.mark.slow
def test_averages_switched_on_start_from_the_weights_of_all_processes(tmp_path, latents):
    run(tmp_path, latents, 2, mesh__fsdp=4, train__num_steps=5, train__ema_decay=0.0)
    steps = {"train__num_steps": 6, "train__checkpoint_every_steps": 1}
    before = arrays(tmp_path, ("params",))["params"]
    output = run(tmp_path, latents, 2, mesh__fsdp=4, train__ema_decay=0.75, **steps)
    assert "step 5 has no averaged weights" in output
    after = arrays(tmp_path)
    jax.tree.map(
        lambda ema, old, new: np.testing.assert_allclose(
            ema, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7
        ),
        after["ema"],
        before,
        after["params"],
    )


@pytest.mark.slow
def test_muon_goes_on_to_the_bit_and_one_process_comes_to_the_same(tmp_path, latents):
    """Matrices travel between processes; sums of gradients are in another order in one."""
    by = {"optimizer__name": "muon_all", "train__checkpoint_every_steps": 2, "mesh__fsdp": 4}
    by |= {"optimizer__weight_decay": 0.01}
    run(tmp_path / "whole", latents, 2, train__num_steps=4, **by)
    run(tmp_path / "parts", latents, 2, train__num_steps=2, **by)
    run(tmp_path / "parts", latents, 2, train__num_steps=4, **by)
    assert_same_bits(tmp_path / "parts", tmp_path / "whole")
    run(tmp_path / "one", latents, 1, devices=1, train__num_steps=4, **by | {"mesh__fsdp": 1})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4),
        arrays(tmp_path / "one", ("params",)),
        arrays(tmp_path / "whole", ("params",)),
    )


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_at_once(tmp_path, latents):
    job = start(tmp_path, latents, 2, fail=1)
    statuses, outputs = finish(job, timeout=240)
    assert statuses == [1, 1], "\n".join(outputs)
    assert "ValueError: shard 7 is damaged" in outputs[1]
    assert "another process failed: process 1: ValueError: shard 7 is damaged" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "sizes"), [(2, (2, 2, 1)), (4, (2, 2, 2))])
def test_sigkill_of_one_ends_all_and_a_restart_ends_with_the_same_bits(
    tmp_path, latents, count, sizes
):
    mesh = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), sizes))
    mesh |= {"model__hidden_size": 48}  # heads and MLP divide by tensor=2
    run(tmp_path / "whole", latents, count, **mesh)
    for step, victim in ((7, count - 1), (13, 0)):
        job = start(tmp_path / "killed", latents, count, train__num_steps=100_000, **mesh)
        wait_for(f"step {step}/", job[0])
        job[victim].send_signal(signal.SIGKILL)
        statuses, _ = finish(job)  # the others miss its heartbeat
        assert 0 not in statuses and statuses[victim] == -signal.SIGKILL
        for newer in (tmp_path / "killed" / "checkpoints").iterdir():
            assert int(newer.name.partition(".")[0]) < 24, "the job outran the other one"
    run(tmp_path / "killed", latents, count, **mesh)
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_restart_after_sigterm_ends_with_the_same_bits(tmp_path, latents):
    saved = end_with_sigterm(tmp_path / "ended", latents, 2, mesh__fsdp=2)
    steps = {"train__num_steps": saved + 10}
    run(tmp_path / "whole", latents, 2, mesh__fsdp=2, **steps)
    out = run(tmp_path / "ended", latents, 2, mesh__fsdp=2, **steps)
    assert f"resumed from step {saved} " in out
    assert_same_bits(tmp_path / "whole", tmp_path / "ended")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_by_all(tmp_path, latents):
    run(tmp_path, latents, 2, mesh__fsdp=2, train__num_steps=10)
    whole = arrays(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "10" / "opt_state")
    out = run(tmp_path, latents, 2, mesh__fsdp=2, train__num_steps=10)
    assert "resumed from step 5 " in out and "(its item 'opt_state' is missing)" in out
    assert (tmp_path / "checkpoints" / "10.damaged").is_dir()
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path), whole)


@pytest.mark.slow
def test_damaged_arrays_are_noticed_by_all_and_on_another_mesh(tmp_path, latents):
    """A byte of what one of two processes reads; a third start, of one process, has them all."""
    run(tmp_path, latents, 2, mesh__fsdp=2, train__num_steps=10)
    whole = arrays(tmp_path)
    files = list((tmp_path / "checkpoints" / "10" / "ema").rglob("d/*"))
    largest = max(files, key=lambda path: path.stat().st_size)
    for file in (f for f in files if f.stat().st_size == largest.stat().st_size):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    out = run(tmp_path, latents, 2, mesh__fsdp=2, train__num_steps=10)
    assert "resumed from step 5 " in out
    assert (tmp_path / "checkpoints" / "10.damaged").is_dir()
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path), whole)
    assert {p.name for p in (tmp_path / "checkpoints" / "10" / "digests").iterdir()} >= {
        "process_0.json",
        "process_1.json",
    }
    out = run(tmp_path, latents, 1, devices=4, mesh__fsdp=4, train__num_steps=10)
    assert "resumed from step 10 " in out, "the digests of two processes are those of one"


@pytest.mark.slow
def test_restored_by_another_number_of_processes_on_another_mesh(tmp_path, latents):
    workdir = tmp_path / "w"
    run(workdir, latents, 4, devices=1, mesh__fsdp=4, train__num_steps=10)
    saved = arrays(workdir)
    # A run of the same number of steps restores, finds itself finished and saves nothing.
    out = run(workdir, latents, 2, mesh__fsdp=2, train__num_steps=10)
    assert "resumed from step 10 " in out
    jax.tree.map(np.testing.assert_array_equal, arrays(workdir), saved)
    out = run(workdir, latents, 1, devices=4, mesh__fsdp=1, train__num_steps=15)
    assert "resumed from step 10 " in out
    run(tmp_path / "whole", latents, 1, devices=4, mesh__fsdp=1, train__num_steps=15)
    for got, want in zip(records(workdir), records(tmp_path / "whole"), strict=True):
        for name, value in want.items():  # the same examples and noise on every mesh
            np.testing.assert_allclose(got[name], value, rtol=2e-4, err_msg=name)


def test_kill_all_leaves_nothing(tmp_path, latents):
    job = start(tmp_path, latents, 2)
    kill_all(job)
    assert [process.poll() for process in job] == [-signal.SIGKILL] * 2
