"""What digests cost when a checkpoint is saved and when it is read back.

    python -m benchmarks.checkpoint_digests --gigabytes=1

Saves a state of random numbers as a training does, with digests and without, in turns, and reads it
with and without comparing them. `blocks`: seconds until the next step may begin; `save`: until all
is on disk; CPU seconds of the process beside both, which do not depend on what else the machine
does. Digests alone are timed too.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax import checkpoint_digests
from lightningdit_jax.array_digest import tree_digests
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.verification import verifying

SHAPE = (28, 1152, 2, 192)  # an eighth of w12 of LightningDiT-XL, 50 MB


class Without:
    """In the place of a tree's digests: none."""

    def __init__(self, tree: object):
        pass

    def result(self) -> dict:
        """See TreeDigests."""
        return {}


def state(gigabytes: float) -> dict[str, jax.Array]:
    """Arrays of random numbers, which hardly compress, as weights."""
    rng = np.random.default_rng(0)
    count = max(1, round(gigabytes * 1e9 / (4 * np.prod(SHAPE))))
    return {f"w{i}": jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for i in range(count)}


def timed(tree: dict[str, jax.Array], with_digests: bool) -> dict[str, float]:
    """Seconds of one save and one restore."""
    folder = tempfile.mkdtemp()
    digests = checkpoint_digests.TreeDigests if with_digests else Without
    checkpoints = TrainingCheckpoints(folder, keep=1)
    try:
        with mock.patch.object(checkpoint_digests, "TreeDigests", digests):
            cpu, began = time.process_time(), time.perf_counter()
            meta = {"format_version": 1, "step": 1}
            checkpoints.save(1, {"params": tree}, {"meta": meta})
            blocks = time.perf_counter() - began
            checkpoints.wait()
        times = {
            "blocks": blocks,
            "save": time.perf_counter() - began,
            "save CPU": time.process_time() - cpu,
        }
        abstract = {"params": jax.eval_shape(lambda: tree)}
        cpu, began = time.process_time(), time.perf_counter()
        with verifying(with_digests):
            jax.block_until_ready(checkpoints.restore(abstract, ()).arrays)
        return times | {
            "restore": time.perf_counter() - began,
            "restore CPU": time.process_time() - cpu,
        }
    finally:
        checkpoints.close()
        shutil.rmtree(folder)


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="outputs/checkpoint_digests.json")
    options = parser.parse_args()
    tree = state(options.gigabytes)
    size = sum(leaf.nbytes for leaf in tree.values())
    tree_digests(tree)  # compiles
    alone = []
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(options.rounds):
        began = time.perf_counter()
        tree_digests(tree)
        alone.append(time.perf_counter() - began)
        for with_digests, taken in rows.items():
            taken.append(timed(tree, with_digests))
    medians = {
        name: [statistics.median(row[name] for row in taken) for taken in rows.values()]
        for name in rows[True][0]
    }
    print(f"{size / 1e9:.2f} GB; digests alone {statistics.median(alone):.3f} s")
    print(f"{'seconds':12s} {'without':>8s} {'with':>8s}")
    for name, (without, with_digests) in medians.items():
        print(f"{name:12s} {without:8.3f} {with_digests:8.3f}")
    write_json(
        options.output,
        {
            "bytes": size,
            "digests_alone": statistics.median(alone),
            "device": jax.devices()[0].device_kind,
            "medians_without_and_with": medians,
        },
    )


if __name__ == "__main__":
    main()
