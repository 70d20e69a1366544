"""One of two processes with two devices each; run by test_multihost.py."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from lightningdit_jax.parallel.multihost import (
    gather_text,
    global_batch,
    initialize,
    is_main_process,
    to_host,
)


def main(address: str, index: int) -> None:
    initialize(address, 2, index)
    assert jax.process_count() == 2 and jax.device_count() == 4
    assert is_main_process() == (index == 0)

    assert gather_text("") == ["", ""]
    assert gather_text("r\u00e9cord 7\n" * index) == ["", "r\u00e9cord 7\n"]

    local = {"x": np.arange(8.0).reshape(4, 2) + 100 * index, "y": np.arange(4) + 10 * index}
    want = np.concatenate([np.arange(4), np.arange(4) + 10])
    for sizes in [(4, 1, 1), (1, 4, 1), (2, 1, 2)]:
        mesh = make_mesh(*sizes)
        batch = global_batch(local, mesh)
        assert batch["x"].shape == (8, 2) and batch["x"].sharding == batch_sharding(mesh)
        np.testing.assert_array_equal(to_host(batch)["y"], want)
        total = jax.jit(jnp.sum, out_shardings=replicated(mesh))(batch["y"])
        np.testing.assert_array_equal(to_host({"total": total})["total"], want.sum())

    try:  # tensor reaches across the processes: both would have to hold the same rows
        global_batch(local, make_mesh(1, 1, 4))
    except ValueError as error:
        assert "check_batch_size" in str(error)
    else:
        raise AssertionError("a batch shard shared by two processes was accepted")


if __name__ == "__main__":
    main(os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_PROCESS_ID"]))
