"""Which checkpoint is the newest, beside copies that were cut off."""

import builtins
import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import (
    TrainingCheckpoints,
    find_checkpoint,
    read_meta,
    save_checkpoint,
)
from lightningdit_jax.checkpoint_choice import defect
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.training.best_checkpoint import BestCheckpoint

STEPS = (10, 20, 30)
ABSTRACT = {"params": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three checkpoints, each filled with its step."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = TrainingCheckpoints(str(workdir), keep=3)
    for step in STEPS:
        w = jnp.full(2, float(step))
        meta = {"format_version": 1, "step": step}
        arrays = {"params": {"w": w}, "ema": {"w": w}}
        checkpoints.save(step, arrays, {"meta": meta, "loop": {"data": step}})
    checkpoints.close()
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "w")
    return tmp_path / "w"


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def without(item):
    def remove(path):
        shutil.rmtree(path / item)

    return remove


def hollow(item):
    def remove(path):
        shutil.rmtree(path / item)
        (path / item).mkdir()

    return remove


def write(text, item="meta"):
    return lambda path: (path / item / "metadata").write_text(text)


def cut(path):
    file = path / "meta" / "metadata"
    file.write_text(file.read_text()[:20])


def of_another_step(path):
    file = path / "meta" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "step": 20}))


DAMAGES = {
    "empty": (empty, "it is empty"),
    "no meta": (without("meta"), "item 'meta' is missing"),
    "no params": (without("params"), "item 'params' is missing"),
    "no ema": (without("ema"), "item 'ema' is missing"),
    "no loop": (without("loop"), "item 'loop' is missing"),
    "hollow meta": (hollow("meta"), "item 'meta' is missing"),
    "hollow params": (hollow("params"), "item 'params' is missing"),
    "hollow loop": (hollow("loop"), "item 'loop' is missing"),
    "meta cut off": (cut, "JSON cannot be read"),
    "meta empty": (write(""), "JSON cannot be read"),
    "meta no object": (write("[1]"), "JSON cannot be read"),
    "meta no text": (lambda p: (p / "meta/metadata").write_bytes(b"\xff\xfe"), "cannot be read"),
    "loop cut off": (write('{"data": ', "loop"), "JSON cannot be read"),
    "renamed": (of_another_step, "it says that it is of step 20"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_complete_checkpoint_is_taken_and_the_rest_named(run, damage, caplog):
    harm, reason = DAMAGES[damage]
    harm(run / "checkpoints" / "30")
    assert find_checkpoint(str(run)).name == find_checkpoint(str(run / "checkpoints")).name == "20"
    assert f"{run / 'checkpoints' / '30'} (" in caplog.text and reason in caplog.text

    checkpoints = TrainingCheckpoints(str(run), keep=3)
    assert checkpoints.latest_step() == 20
    assert checkpoints.restore(ABSTRACT, ("loop",)).json["loop"] == {"data": 20}
    # The run comes to step 30 again, and what it saves there counts.
    arrays = {"params": {"w": jnp.full(2, 31.0)}}
    checkpoints.save(30, arrays, {"meta": {"format_version": 1, "step": 30}})
    np.testing.assert_array_equal(checkpoints.restore(ABSTRACT, ()).arrays["params"]["w"], [31, 31])
    checkpoints.close()
    assert find_checkpoint(str(run)).name == "30" and defect(find_checkpoint(str(run))) is None
    assert (run / "checkpoints" / "30.damaged").is_dir(), "nothing is deleted"


@pytest.mark.parametrize("file", ["meta/metadata", "loop/metadata", "params/_METADATA"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_what_cannot_be_read_just_now_is_not_damaged(run, monkeypatch, file, error):
    """A file system that refuses says nothing of a checkpoint: it is whole when it answers."""
    refused = str(run / "checkpoints" / "30" / file)

    def refusing(call):
        def ask(path, *args, **kwargs):
            if str(path) == refused:
                raise OSError(error, os.strerror(error), refused)
            return call(path, *args, **kwargs)

        return ask

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refusing(open))
        patch.setattr(os, "stat", refusing(os.stat))
        for make in (lambda: find_checkpoint(str(run)), lambda: TrainingCheckpoints(run, keep=3)):
            with pytest.raises(OSError, check=lambda e: e.errno == error):
                make()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["10", "20", "30"]
    assert find_checkpoint(str(run)).name == "30"


@pytest.mark.parametrize(
    ("keep", "keep_every", "first", "second"),
    [
        (1, 0, [20], [28]),
        (2, 0, [16, 20], [24, 28]),
        (1, 8, [8, 16, 20], [8, 16, 24, 28]),
        (3, 8, [8, 12, 16, 20], [8, 16, 20, 24, 28]),
    ],
)
def test_the_newest_stay_and_those_of_every_so_many_steps(
    tmp_path, keep, keep_every, first, second
):
    """Over a restart too; what stays is whole."""
    for steps, stay in (((4, 8, 12, 16, 20), first), ((24, 28), second)):
        checkpoints = TrainingCheckpoints(str(tmp_path), keep=keep, keep_every=keep_every)
        for step in steps:
            arrays = {"params": {"w": jnp.full(2, float(step))}}
            checkpoints.save(step, arrays, {"meta": {"format_version": 1, "step": step}})
        checkpoints.wait()
        there = sorted((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
        assert [int(path.name) for path in there] == stay
        for path, step in zip(there, stay):
            assert defect(epath.Path(path)) is None
            restored = checkpoints.restore(ABSTRACT, (), step)
            np.testing.assert_array_equal(restored.arrays["params"]["w"], [step, step])
        checkpoints.close()


def test_two_damaged_ones_and_what_was_never_finished(run, caplog):
    empty(run / "checkpoints" / "20")
    without("params")(run / "checkpoints" / "30")
    (run / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
    (run / "checkpoints" / "50").write_text("a file")
    assert find_checkpoint(str(run)).name == "10"
    assert "30 (its item 'params' is missing)" in caplog.text and "20 (it is empty)" in caplog.text
    checkpoints = TrainingCheckpoints(str(run), keep=3)
    assert checkpoints.latest_step() == 10
    checkpoints.close()


def test_nothing_is_said_of_a_whole_run(run, caplog):
    assert find_checkpoint(str(run)).name == "30"
    checkpoints = TrainingCheckpoints(str(run), keep=3)
    assert checkpoints.latest_step() == 30
    checkpoints.close()
    assert caplog.text == ""


def test_a_checkpoint_of_before_items_were_named_counts(run):
    file = run / "checkpoints" / "30" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    assert meta.pop("items") == ["ema", "loop", "meta", "params"]
    del meta["digests"]  # which are younger still
    shutil.rmtree(run / "checkpoints" / "30" / "digests")
    file.write_text(json.dumps(meta))
    assert find_checkpoint(str(run)).name == "30"


def test_a_run_is_not_started_over_damaged_checkpoints(run, tmp_path):
    for step in STEPS:
        empty(run / "checkpoints" / str(step))
    for make in (lambda: TrainingCheckpoints(str(run), keep=3), lambda: find_checkpoint(str(run))):
        with pytest.raises((ValueError, FileNotFoundError), match="no complete checkpoint") as said:
            make()
        assert all(f"{step} (it is empty)" in str(said.value) for step in STEPS)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["10", "20", "30"]


@pytest.mark.parametrize("file", ["w/checkpoints", "w"])
def test_a_file_in_the_folders_place_is_refused(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path / file} is a file"):
        TrainingCheckpoints(str(tmp_path / "w"), keep=1)


@pytest.mark.parametrize("item", ["params", "meta/metadata"])
def test_a_converted_checkpoint_that_was_cut_off_is_named(tmp_path, item):
    path = tmp_path / "dit"
    save_checkpoint(str(path), {"params": {"w": np.ones(2)}}, {"meta": {"format_version": 1}})
    assert read_meta(find_checkpoint(str(path)))["items"] == ["meta", "params"]
    (shutil.rmtree if (path / item).is_dir() else lambda file: file.unlink())(path / item)
    with pytest.raises(FileNotFoundError, match="is missing; copy it again"):
        find_checkpoint(str(path))


@pytest.mark.parametrize(
    "harm",
    [
        empty,
        without("meta"),
        without("params"),
        cut,
        write('{"format_version": 1}'),
        write('{"format_version": 1, "best": {"metric": "fid", "value": "low"}}'),
        write('{"format_version": 9}'),
    ],
)
def test_an_unreadable_best_is_none(tmp_path, harm, caplog):
    meta, arrays = {"format_version": 1}, {"params": {"w": jnp.ones(2)}}
    best = BestCheckpoint(str(tmp_path), "fid")
    assert best.offer(10, 5.0, arrays, meta)
    best.close()
    harm(tmp_path / "best" / "10")
    best = BestCheckpoint(str(tmp_path), "fid")
    assert str(tmp_path / "best" / "10") in caplog.text and best.value == float("inf")
    assert best.offer(10, 7.0, arrays, meta)
    best.close()
    assert read_meta(find_checkpoint(str(tmp_path / "best")))["best"]["value"] == 7.0


def test_what_is_no_checkpoint_names_the_way_to_one(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"weights")
    for path, said in [
        (str(tmp_path / "x.pt"), r"x\.pt: it is a file; .*convert_torch_weights\.py --src .*x\.pt"),
        ("hustvl/vavae-imagenet256", r"repository of the hub .*scripts/download_weights\.py"),
        (str(tmp_path / "absent"), r"there is no such directory$"),
    ]:
        with pytest.raises(FileNotFoundError, match=said):
            find_checkpoint(path)


def test_copies_on_the_devices_of_one_process_are_saved_without_compiling(tmp_path, caplog):
    """Orbax would have each device cut out a part: a program for each of them and each shape."""
    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    tree = {str(n): jax.device_put(np.arange(8.0 * n), everywhere) for n in (3, 5, 7)}
    with jax.log_compiles():
        jax.block_until_ready(jax.jit(lambda x: x + 3)(tree["3"]))
        assert "Compiling" in caplog.text
        caplog.clear()
        checkpoints = TrainingCheckpoints(tmp_path, keep=1)
        checkpoints.save(1, {"params": tree}, {"meta": {}})
        checkpoints.wait()
    assert "Compiling" not in caplog.text
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
    )
    restored = checkpoints.restore({"params": abstract}, ("meta",)).arrays["params"]
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, tree)


@pytest.fixture
def flushed(monkeypatch):
    """Sizes by path of what the system is asked to bring to the disk, as it is called then."""
    sizes, fsync = {}, os.fsync

    def watched(file):
        sizes[os.readlink(f"/proc/self/fd/{file}")] = os.fstat(file).st_size
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    return sizes


def sizes_below(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path, flushed):
    with TrainingCheckpoints(str(tmp_path), keep=1) as checkpoints:
        for step in (1, 2):
            meta = {"format_version": 1, "step": step}
            checkpoints.save(step, {"params": {"w": jnp.ones(2)}}, {"meta": meta})
    (left,) = (tmp_path / "checkpoints").iterdir()
    marker = "/2.orbax-checkpoint-tmp/"
    before = {p.partition(marker)[2]: size for p, size in flushed.items() if marker in p}
    # Orbax writes these two later, and nothing is read from them.
    late = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    there = sizes_below(left)
    assert left.name == "2" and late < there.keys()
    assert {p: before.get(p) for p in there.keys() - late} == {
        p: there[p] for p in there.keys() - late
    }
    for name in late:
        (left / name).write_bytes(b"")
    assert defect(find_checkpoint(str(tmp_path))) is None


def test_a_disk_that_refuses_at_last_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints = TrainingCheckpoints(str(tmp_path), keep=1)
    state = {"params": {"w": jnp.ones(2)}}
    checkpoints.save(1, state, {"meta": {"format_version": 1, "step": 1}})
    checkpoints.wait()

    def refuse(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    checkpoints.save(2, state, {"meta": {"format_version": 1, "step": 2}})
    with pytest.raises(StorageError, match=r"/checkpoints/2\.orbax-.*\(EIO\); look at the disk"):
        checkpoints.wait()
    assert find_checkpoint(str(tmp_path)).name == "1"


def test_a_converted_checkpoint_is_on_disk_when_it_is_said_to_be(tmp_path, flushed):
    path = tmp_path / "c"
    save_checkpoint(str(path), {"params": {"w": np.ones(2)}}, {"meta": {"format_version": 1}})
    there = {
        p.removeprefix(f"{path}/"): size for p, size in flushed.items() if p.startswith(f"{path}/")
    }
    assert there == sizes_below(path)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, flushed):
    write_json(tmp_path / "x.json", [1])
    assert flushed == {f"{tmp_path}/.x.json.tmp": (tmp_path / "x.json").stat().st_size}
