"""Damage of arrays, which leaves a checkpoint complete: noticed in reading, and passed over."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from lightningdit_jax.checkpoint import (
    TrainingCheckpoints,
    find_checkpoint,
    newest_of_run,
    read_arrays,
    read_meta,
    save_checkpoint,
    set_aside,
    use_checkpoint,
)
from lightningdit_jax.checkpoint_choice import defect
from lightningdit_jax.checkpoint_digests import DigestsHandler
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError, read_json
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training import run as run_module
from lightningdit_jax.verification import verifying
from tests.training.loop_cases import assert_same, records, run

# TensorStore's other futures fail too, after the first of them has been told.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TREES = {
    "params": {
        "w": np.arange(64, dtype=np.float32).reshape(8, 8),
        "v": np.ones((8, 8), np.float32),
    },
    "opt_state": {"count": np.int32(7), "mu": np.linspace(-1, 1, 64, dtype=np.float32)},
}
JSON = {"meta": {"format_version": 1, "step": 5}, "loop": {"data": {"next_index": 5}}}


def on_mesh(mesh, *spec):
    """The abstract trees; arrays of two axes are sharded."""

    def leaf(x):
        sharding = NamedSharding(mesh, PartitionSpec(*spec if x.ndim == 2 else ()))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, TREES)


def saved_by_training(path):
    checkpoints = TrainingCheckpoints(str(path), keep=2)
    abstract = on_mesh(make_mesh(2, 4, 1), "data", "fsdp")
    arrays = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), TREES, abstract)
    checkpoints.save(5, arrays, JSON)
    checkpoints.close()
    return epath.Path(path) / "checkpoints" / "5"


def converted(path):
    save_checkpoint(str(path / "5"), TREES, JSON)
    return epath.Path(path) / "5"


def read(checkpoint, abstract):
    """All that it holds. Raises for what is damaged."""
    if lacks := defect(checkpoint):
        raise DamagedCheckpointError(checkpoint, lacks)
    arrays = {item: read_arrays(checkpoint, item, tree) for item, tree in abstract.items()}
    meta = read_meta(checkpoint)
    return arrays, {key: meta[key] for key in JSON["meta"]}, read_json(checkpoint, "loop")


@pytest.mark.parametrize(
    "make", [saved_by_training, pytest.param(converted, marks=pytest.mark.slow)]
)
def test_no_flipped_byte_is_read_as_if_it_were_whole(tmp_path, make):
    """In each file of a checkpoint in turn, and on another mesh than it was saved from.

    What Orbax writes and does not read for us (its own metadata, an index of each process) may
    change: then what is read is still what was saved, to the bit.
    """
    checkpoint = make(tmp_path)
    abstract = on_mesh(make_mesh(4, 2, 1), "fsdp", "data")
    wanted = (TREES, JSON["meta"], JSON["loop"])
    assert_same(read(checkpoint, abstract), wanted)
    files = sorted(p for p in (tmp_path).rglob("*") if p.is_file() and p.stat().st_size)
    rng = np.random.default_rng(0)
    noticed, harmless = [], []
    while len(noticed) < 60:
        file = files[(len(noticed) + len(harmless)) % len(files)]
        content = file.read_bytes()
        place, change = int(rng.integers(len(content))), int(rng.integers(1, 256))
        file.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        try:
            found = read(checkpoint, abstract)
        except ValueError as error:
            assert str(checkpoint) in str(error) and "\n" not in str(error)
            noticed.append(file)
        else:
            assert_same(found, wanted)  # or it went unnoticed
            harmless.append(file)
        file.write_bytes(content)
    assert_same(read(checkpoint, abstract), wanted)
    names_of_ours = {"meta/metadata", "loop/metadata", "digests/process_0.json"}
    assert names_of_ours < {str(file.relative_to(checkpoint)) for file in noticed}
    assert not names_of_ours & {str(file.relative_to(checkpoint)) for file in harmless}


def test_arrays_in_each_others_places_are_noticed(tmp_path):
    checkpoint = converted(tmp_path)
    w, v = checkpoint / "params" / "w", checkpoint / "params" / "v"
    w.rename(tmp_path / "w")
    v.rename(w)
    (epath.Path(tmp_path) / "w").rename(v)
    abstract = on_mesh(make_mesh())
    with pytest.raises(DamagedCheckpointError, match=r"'params/v' holds other .*'params/w' holds"):
        read_arrays(checkpoint, "params", abstract["params"])
    with verifying(False):
        found = read_arrays(checkpoint, "params", abstract["params"])
    np.testing.assert_array_equal(found["v"], TREES["params"]["w"])


def test_orbax_reads_the_digests_of_all_items(tmp_path):
    run(tmp_path)
    restored = DigestsHandler().restore(epath.Path(tmp_path) / "checkpoints" / "12" / "digests")
    assert restored.arrays.keys() == {"params", "opt_state", "ema", "step"}
    assert restored.arrays["params"]["w"].shape == (3,)


def test_an_item_of_another_step_is_noticed(tmp_path):
    checkpoint = converted(tmp_path / "a")
    trees = jax.tree.map(lambda x: x + 1, TREES)
    save_checkpoint(str(tmp_path / "b"), trees, JSON)
    shutil.rmtree(checkpoint / "opt_state")
    shutil.copytree(tmp_path / "b" / "opt_state", checkpoint / "opt_state")
    abstract = on_mesh(make_mesh())
    read_arrays(checkpoint, "params", abstract["params"])
    with pytest.raises(DamagedCheckpointError, match="'opt_state/count' holds other values"):
        read_arrays(checkpoint, "opt_state", abstract["opt_state"])


def test_other_shapes_than_were_saved_are_no_damage(tmp_path):
    checkpoint = converted(tmp_path)
    asked = {"w": jax.ShapeDtypeStruct((4, 8), jnp.float32)}
    with pytest.raises(ValueError, match=r"'params/w' is \('float32', \(8, 8\)\)") as raised:
        read_arrays(checkpoint, "params", asked)
    assert not isinstance(raised.value, DamagedCheckpointError)


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda path: (path / "process_0.json").unlink()])
def test_digests_that_are_gone_are_noticed_and_old_checkpoints_have_none(tmp_path, harm, caplog):
    checkpoint = converted(tmp_path)
    harm(checkpoint / "digests")
    assert defect(checkpoint) == "its item 'digests' is missing"
    with verifying(False):
        assert defect(checkpoint) is None
    meta = read_json(checkpoint, "meta")
    del meta["digests"]
    (checkpoint / "meta" / "metadata").write_text(json.dumps(meta))
    assert_same(read(checkpoint, on_mesh(make_mesh()))[0], TREES)
    assert f"{checkpoint} has no digests, an older version wrote it: not verified" in caplog.text


def harmed(workdir, step):
    """Turns a bit of all files with weights of a checkpoint."""
    files = list((workdir / "checkpoints" / str(step) / "params").rglob("d/*"))
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(bytes(content))


def test_a_run_goes_on_from_the_one_before_with_the_same_bits(tmp_path, monkeypatch, caplog):
    whole = run(tmp_path / "whole")[0]
    workdir = tmp_path / "w"
    with pytest.raises(KeyboardInterrupt):
        run(workdir, fail_at=8)
    harmed(workdir, 6)
    attempts = []

    def _train(config, given, evaluator, picture, preempted):
        attempts.append(newest_of_run(str(workdir)).name)
        return run(workdir)[0]

    monkeypatch.setattr(run_module, "_train", _train)
    for name in ("make_optimizer", "check_divides", "open_source", "open_held_out", "line"):
        monkeypatch.setattr(run_module, name, lambda *args: None)
    monkeypatch.setattr(run_module, "open_init", lambda *args: (None, None))
    monkeypatch.setattr(run_module, "training_plans", lambda *args: ([_Plan()], None))
    state = run_module.train(_Config(), str(workdir))
    assert_same(state, whole)
    assert records(workdir) == records(tmp_path / "whole")
    assert attempts == ["6", "3"]
    assert f"renamed to STEP.damaged: {workdir / 'checkpoints' / '6'} (" in caplog.text
    there = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert there == {"6.damaged", "9", "12"}, "the damaged one is neither deleted nor counted"


class _Plan:
    def applied(self, config):
        return config


class _Config:
    def __init__(self):
        self.optimizer = self.train = self.compute = self

    kind, is_joint, num_steps, on_oom, writers = "vavae", False, 12, "stop", ()


def test_without_a_whole_one_before_nothing_is_begun_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=5)
    harmed(tmp_path, 3)
    with pytest.raises(DamagedCheckpointError, match="checkpoints/3 is damaged") as raised:
        run(tmp_path)
    with pytest.raises(DamagedCheckpointError, match="checkpoints/3 is damaged"):
        set_aside(str(tmp_path), raised.value)
    with pytest.raises(DamagedCheckpointError, match="checkpoints/3 is damaged"):
        set_aside(str(tmp_path / "another"), raised.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_readers_take_an_older_one_of_a_run_and_refuse_one_that_is_named(tmp_path, caplog):
    run(tmp_path)
    harmed(tmp_path, 12)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=device)}

    def weights(checkpoint):
        read_arrays(checkpoint, "params", abstract)
        return checkpoint.name

    assert use_checkpoint(str(tmp_path), weights) == "9"
    assert use_checkpoint(str(tmp_path / "checkpoints"), weights) == "9"
    newest = find_checkpoint(str(tmp_path))
    assert caplog.text.count(f"passed over as damaged: {newest} (") == 1
    with pytest.raises(DamagedCheckpointError, match="checkpoints/12 is damaged: "):
        use_checkpoint(str(newest), weights)


def test_a_folder_whose_state_is_of_another_step(tmp_path):
    """As an older checkpoint, whose meta can be changed with its name."""
    run(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "12").rename(folder / "15")
    file = folder / "15" / "meta" / "metadata"
    file.write_text(file.read_text().replace('"step": 12', '"step": 15'))
    assert defect(epath.Path(folder / "15")) == "its JSON is not as it was saved (meta)"
    with (
        verifying(False),
        pytest.raises(DamagedCheckpointError, match="holds the state of step 12"),
    ):
        run(tmp_path)
