import jax
import numpy as np
import pytest

from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.parallel import multihost
from lightningdit_jax.parallel.mesh import make_mesh, replicated
from lightningdit_jax.parallel.multihost import (
    gather_numpy,
    global_batch,
    initialize,
    is_main_process,
    to_host,
)
from tests.parallel import processes


def test_two_processes():
    started = processes.start("tests.parallel.two_processes", processes=2, devices=2)
    statuses, outputs = processes.finish(started)
    assert statuses == [0, 0], "\n".join(outputs)


def test_all_take_the_checkpoint_that_the_main_process_takes(tmp_path):
    """Where each asked for itself, one waited for company that the other did not keep."""
    names = ("main_sees_damage", "other_sees_damage", "other_sees_nothing", "main_sees_nothing")
    for name in names:
        for step in (10, 20):
            path = tmp_path / name / "checkpoints" / str(step)
            meta = {"format_version": 1, "step": step}
            save_checkpoint(str(path), {"params": {"w": np.ones(2)}}, {"meta": meta})
    module = "tests.parallel.disagreeing_processes"
    started = processes.start(module, tmp_path, processes=2, devices=1)
    statuses, outputs = processes.finish(started)
    assert statuses == [0, 0], "\n".join(outputs)
    found = {name: {p.name for p in (tmp_path / name / "checkpoints").iterdir()} for name in names}
    assert found.pop("main_sees_damage") == {"10", "20.damaged"}
    assert all(there == {"10", "20"} for there in found.values())


def test_one_process():
    mesh = make_mesh(2, 2, 2)
    batch = global_batch({"x": np.arange(8).reshape(4, 2)}, mesh)
    assert batch["x"].shape == (4, 2) and is_main_process()
    np.testing.assert_array_equal(to_host(batch)["x"], np.arange(8).reshape(4, 2))
    whole = jax.device_put(np.arange(3), replicated(mesh))
    assert isinstance(to_host(whole), np.ndarray)
    with pytest.raises(ValueError, match=r"batch\['x'\]: 6 rows"):
        global_batch({"x": np.zeros((6, 2))}, mesh)


SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}
SET = {
    "JAX_COORDINATOR_ADDRESS": "host:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
TPU_VM = {"TPU_ML_PLATFORM": "JAX", "JAX_PLATFORMS": "tpu,cpu"}


@pytest.mark.parametrize(
    ("env", "arguments", "calls"),
    [
        ({}, (), []),
        (SLURM, (), [()]),
        (SLURM | {"SLURM_NTASKS": "1"}, (), []),
        (SLURM, (None, 1), []),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, (), [()]),
        (TPU_VM, (), [()]),
        (TPU_VM | {"JAX_PLATFORMS": "cpu"}, (), []),
        (TPU_VM | {"TPU_WORKER_HOSTNAMES": "a,b"}, (), [()]),
        (TPU_VM | {"TPU_WORKER_HOSTNAMES": "localhost"}, (), []),
        (TPU_VM | {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, (), [()]),
        (TPU_VM | {"TPU_SKIP_MDS_QUERY": "1"}, (), []),
        ({}, ("host:1", 2, 0), [("host:1", 2, 0)]),
        (SET, (), [("host:1", 2, 1)]),
        (SET, (None, 1), []),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, (), []),
    ],
)
def test_which_environments_have_company(monkeypatch, env, arguments, calls):
    seen = []
    monkeypatch.setattr(multihost.os, "environ", env)
    monkeypatch.setattr(
        multihost.jax.distributed, "initialize", lambda *args, **_: seen.append(args)
    )
    initialize(*arguments)
    assert seen == calls


def test_half_given_clusters_are_refused():
    with pytest.raises(ValueError, match=r"num_processes=2, process_id=None: expected all three"):
        initialize("host:1", 2)


@pytest.mark.parametrize("array", [np.array(3), np.arange(6.0).reshape(2, 3).T])
def test_gathered_arrays_of_one_process_are_itself(array):
    gathered = gather_numpy(array)
    assert gathered.shape == (1, *array.shape) and gathered.dtype == array.dtype
    np.testing.assert_array_equal(gathered[0], array)
