"""What digests cost when a checkpoint is saved and when it is read back.

    python -m benchmarks.checkpoint_digests --gigabytes=1

Saves a state of random numbers as a training does, with digests and without, in turns, and reads it
with and without comparing them. `blocks`: seconds until the next step may begin; `save`: until all
is on disk; CPU seconds of the process beside both, which do not depend on what else the machine
does. The two of a round are a pair, in either order. Digests alone are timed too.

    python -m benchmarks.checkpoint_digests --topology=v5e:4x4

compiles the digests of XL/1's whole state for accelerators that are not there, and sets the
compiler's estimate beside what a save cannot do without: the bytes of a chip through its share of
the host's network or disk.
"""

import argparse
import dataclasses
import math
import shutil
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax import checkpoint_digests
from lightningdit_jax import config as configs
from lightningdit_jax.array_digest import is_cut, sums_of_parts, tree_digests
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.configs import dit_xl
from lightningdit_jax.evaluation.error_bars import of_mean
from lightningdit_jax.parallel.ahead_of_time import compile_on
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.parallel.topology import check_topology, open_slice
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.training.job import state_rules
from lightningdit_jax.training.plan import training_plans
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


def estimated(topology: str) -> dict[str, Any]:
    """The digests of XL/1's state on a slice: bytes that a chip holds, seconds on it."""
    config = configs.from_dict(dit_xl.get_config())
    where = open_slice(topology)
    fitting, shapes = training_plans(config, Hardware.of(where.devices))
    mesh = make_mesh(**dataclasses.asdict(fitting[0].applied(config).mesh), devices=where.devices)
    state = jax.tree.leaves(abstract_on_mesh(shapes, mesh, state_rules(config.kind)))
    large = [x for x in state if is_cut(x.sharding, x.shape, x.dtype.itemsize)]

    def sums(leaves: list[jax.Array]) -> list[jax.Array]:
        return [sums_of_parts(mesh, like.sharding.spec)(leaf) for leaf, like in zip(leaves, large)]

    report = compile_on(where, mesh, jax.jit(sums).lower(large), 0.0)
    sizes = [
        sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
        for leaves in (large, state)
    ]
    seconds = report["step_seconds"]
    digested, whole = (size / 1e9 for size in sizes)
    print(
        f"{where}, mesh {dict(mesh.shape)}: {digested:.3f} of {whole:.3f} GB a chip in "
        f"{len(large)} of {len(state)} arrays, {seconds * 1e3:.2f} ms, "
        f"{digested / seconds:.0f} GB/s"
    )
    return {**report, "digested_bytes": sizes[0], "state_bytes": sizes[1]}


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="outputs/checkpoint_digests.json")
    parser.add_argument("--topology", help="such as v5e:4x4 or h100:8: an estimate for it alone")
    options = parser.parse_args()
    if options.topology:
        check_topology(options.topology)
        write_json(options.output, estimated(options.topology))
        return
    tree = state(options.gigabytes)
    size = sum(leaf.nbytes for leaf in tree.values())
    tree_digests(tree)  # compiles
    alone = []
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for number in range(options.rounds):
        began = time.perf_counter()
        tree_digests(tree)
        alone.append(time.perf_counter() - began)
        for with_digests in (False, True) if number % 2 else (True, False):
            rows[with_digests].append(timed(tree, with_digests))
    print(f"{size / 1e9:.2f} GB; digests alone {statistics.median(alone):.3f} s")
    print(f"{'seconds':12s} {'without':>8s} {'with':>8s}  more, paired, 95 % interval")
    medians, differences = {}, {}
    for name in rows[True][0]:
        without, with_digests = ([row[name] for row in taken] for taken in rows.values())
        medians[name] = first, second = statistics.median(without), statistics.median(with_digests)
        low, high = of_mean(np.subtract(with_digests, without)).interval
        differences[name] = low / first, high / first
        print(f"{name:12s} {first:8.3f} {second:8.3f}  {low / first:+.1%} to {high / first:+.1%}")
    write_json(
        options.output,
        {
            "bytes": size,
            "digests_alone": statistics.median(alone),
            "device": jax.devices()[0].device_kind,
            "medians_without_and_with": medians,
            "relative_differences": differences,
        },
    )


if __name__ == "__main__":
    main()
