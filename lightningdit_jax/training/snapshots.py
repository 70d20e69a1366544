"""Power-function averages of a run as they come, of which others are made after training."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lightningdit_jax.averages import is_power_average
from lightningdit_jax.checkpoint import SNAPSHOTS, TrainingCheckpoints, Tree

# A weight is off by 2 ** -11 of itself at most, or by 3e-8; as in arXiv 2312.02696, app. C.
_DTYPE = jnp.float16


class Snapshots:
    """WORKDIR/snapshots/STEP: averages of train.ema_sigmas in float16, of every so many steps.

    None is ever deleted but for steps that the run takes again. All processes must make it and call
    it. Whatever writes raises StorageError.
    """

    def __init__(self, workdir: str):
        self._checkpoints = TrainingCheckpoints(workdir, keep=None, folder=SNAPSHOTS, anew=True)

    def save(self, step: int, averages: Mapping[str, Tree], meta: dict) -> None:
        """Starts writing those of them that are of power functions; they may be donated then."""
        kept = {name: _in_half(tree) for name, tree in averages.items() if is_power_average(name)}
        self._checkpoints.save(step, kept, {"meta": {**meta, "step": step}})

    def forget_after(self, step: int) -> None:
        """Removes those of later steps, which a run goes back to."""
        while (latest := self._checkpoints.latest_step()) is not None and latest > step:
            self._checkpoints.delete(latest)

    def wait(self) -> None:
        """Blocks until everything started is on disk."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Releases the writer."""
        self._checkpoints.close()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """As that of TrainingCheckpoints."""
        self._checkpoints.__exit__(kind, error, traceback)


def snapshots_line(count: int, averages: int, every: int, steps: int) -> str:
    """What they are going to take on disk, of a model of `count` parameters."""
    each, number = 2 * count * averages, -(-steps // every)
    return (
        f"snapshots: {averages} averages in float16 every {every:,} steps and at the end, "
        f"{each / 2**20:,.1f} MiB each time, {each * number / 2**20:,.1f} MiB in the whole run"
    )


@jax.jit
def _in_half(tree: Tree) -> Tree:
    """In float16, each device its part."""
    return jax.tree.map(lambda leaf: leaf.astype(_DTYPE), tree)
