"""Several processes as one program: start-up, global batches, results on the host."""

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lightningdit_jax.parallel.mesh import batch_sharding


def _cluster_detected() -> bool:
    """Whether the environment is one of several processes that JAX can find its way in.

    Asks the environment before any JAX backend exists. A TPU VM counts even with one host, since
    only its metadata server knows how many there are; JAX asks that server.
    """
    env = os.environ
    if "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        return True
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return True
    if "tpu" not in env.get("JAX_PLATFORMS", "tpu"):
        return False
    # Importing jax sets TPU_ML_PLATFORM where it finds TPU chips.
    hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts or int(env.get("MEGASCALE_NUM_SLICES", 1)) > 1
    return "TPU_ML_PLATFORM" in env and "TPU_SKIP_MDS_QUERY" not in env


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Join the other processes of this job, if there are any. Call before any other use of JAX.

    Without arguments Cloud TPU, Slurm and Open MPI are detected, and a lone process does nothing;
    num_processes=1 says that it is alone. Elsewhere give all three: coordinator "host:port" of
    process 0, the number of processes, and this one's number; or set JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. heartbeat_seconds: a process that is not heard of for so
    long is taken for dead, and ends the others.
    Raises ValueError if only some of the three are given.
    """
    if num_processes == 1:
        return
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        given = coordinator, num_processes, process_id = _cluster_in_environment()
    if all(value is None for value in given):
        if _cluster_detected():
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
        return
    if any(value is None for value in given):
        raise ValueError(
            f"coordinator={coordinator}, num_processes={num_processes}, process_id={process_id}: "
            "expected all three, or none to detect the cluster"
        )
    jax.distributed.initialize(*given, heartbeat_timeout_seconds=heartbeat_seconds)


def _cluster_in_environment() -> tuple[str | None, int | None, int | None]:
    """(coordinator, num_processes, process_id); all None unless the last two are set."""
    count, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    if count is None and index is None:
        return None, None, None  # an address alone goes with a cluster that JAX detects
    to_int = (int(value) if value is not None else None for value in (count, index))
    return os.environ.get("JAX_COORDINATOR_ADDRESS"), *to_int


def is_main_process() -> bool:
    """Whether this process writes what is written once: logs, pictures, JSON."""
    return jax.process_index() == 0


def print_once(*lines: str) -> None:
    """Prints lines, on the main process only."""
    if is_main_process():
        for line in lines:
            print(line, flush=True)


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch -> the global batch, sharded over data and fsdp.

    batch: {name: [b, ...]}, the same b in every process -> {name: [b * processes, ...]}.
    Raises ValueError if the rows do not fill this process's batch shards exactly.
    """
    sharding = batch_sharding(mesh)

    def to_global(name, local):
        shape = (local.shape[0] * jax.process_count(), *local.shape[1:])
        try:
            # The explicit shape makes JAX check the rows. It would accept processes that share a
            # batch shard but hold different rows if left to infer it.
            return jax.make_array_from_process_local_data(sharding, local, global_shape=shape)
        except ValueError as error:
            raise ValueError(
                f"batch[{name!r}]: {local.shape[0]} rows in each of {jax.process_count()} "
                f"processes do not fill the mesh {dict(mesh.shape)}; see check_batch_size"
            ) from error

    return {name: to_global(name, local) for name, local in batch.items()}


def gather_numpy(array: np.ndarray) -> np.ndarray:
    """Arrays of all processes, of the same shape and type in each. [...] -> [processes, ...].

    Exact for every type: as JAX arrays, float64 would become float32.
    """
    array = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis
    if jax.process_count() == 1:
        return array[None]
    raw = np.frombuffer(array.tobytes(), np.uint8)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(raw))
    return gathered.view(array.dtype).reshape(-1, *array.shape)


def gather_text(text: str) -> list[str]:
    """The texts of all processes, in their order, in each. All must call it."""
    raw = np.frombuffer(text.encode(), np.uint8)
    sizes = gather_numpy(np.array(len(raw)))
    padded = np.zeros(sizes.max() + 1, np.uint8)  # never empty
    padded[: len(raw)] = raw
    return [row[:size].tobytes().decode() for row, size in zip(gather_numpy(padded), sizes)]


def from_main_process(value: Any) -> np.ndarray:
    """The main process's number or array in every process, where its type and shape are the same.

    All must call it. For what only the main process can know, such as what is on its disk.
    """
    return gather_numpy(np.array(value))[0]


def to_host(tree: Any) -> Any:
    """Tree of global arrays -> tree of whole NumPy arrays, the same in every process.

    All processes must call it: what is sharded over processes is gathered.
    """

    def leaf(x):
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        if x.is_fully_addressable:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(leaf, tree)
