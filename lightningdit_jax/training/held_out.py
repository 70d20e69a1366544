"""The loss on held-out examples: the same of them, with the same draws, at every step."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.averages import MAIN, WEIGHTS
from lightningdit_jax.data.pipeline import BatchSource
from lightningdit_jax.parallel.mesh import num_batch_shards, replicated
from lightningdit_jax.parallel.multihost import global_batch
from lightningdit_jax.parallel.topology import compiler_options
from lightningdit_jax.training.state import TrainState

SEED = 0x68656C64  # of what is drawn by example; no run's own, so that runs compare
TIME, HELD, INDEX = "t", "held", "index"  # what a batch has besides the data
NUM_BINS = 4  # of timesteps, equally wide

_OF_BIN = re.compile(r"_t\d$")
PREFIXES = {WEIGHTS: "", MAIN: "ema_"}  # of the numbers of these weights


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a kind of model is asked of held-out examples.

    rows(params, state, batch, *frozen) -> {term: [B]}, where params are the weights in question,
    state gives step and companions, and batch has columns and INDEX, [B], besides the data.
    columns(indices) -> {name: [N]}, fixed by the index of an example; with TIME there are numbers
    by timestep too.
    """

    rows: Callable[..., dict[str, jax.Array]]
    columns: Callable[[np.ndarray], dict[str, np.ndarray]]


class HeldOut:
    """numbers = held_out(step, state): means over the first `count` examples of a source.

    By name: a term of the raw weights, `ema_` before those of the main average, and of a generator
    `_t0` to `_t3` after those of a quarter of the times, where examples have such. Nothing depends
    on batches, devices or processes but the order of rounding within a model. Examples that cannot
    be read and are skipped do not count; where none can, ValueError. All processes have to call it.
    batch_size: global, at most; abstract: shapes of the state.
    """

    def __init__(
        self,
        losses: Losses,
        source: BatchSource,
        mesh: Mesh,
        *,
        count: int,
        batch_size: int,
        abstract: TrainState,
        frozen: tuple[Any, ...] = (),
    ):
        self._source, self._mesh, self._frozen = source, mesh, frozen
        self._count, shards = count, num_batch_shards(mesh)
        self._batch_size = min(batch_size, -(-count // shards) * shards)
        self._columns = losses.columns(np.arange(count))

        def rows(params: Any, state: TrainState, batch: dict, *frozen: Any) -> dict:
            return losses.rows(params, state, batch, *frozen) | {HELD: batch[HELD]}

        self._rows = jax.jit(
            rows, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh)
        )
        shapes = jax.eval_shape(rows, abstract.params, _others(abstract), self._read(0), *frozen)
        values = {name: np.ones(count, bool if name == HELD else float) for name in shapes}
        self.names = tuple(
            name for which in _weights(abstract) for name in self._means(which, values)
        )

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """The numbers of a state; see above."""
        weights, others = _weights(state), _others(state)
        found: dict[str, list[dict]] = {which: [] for which in weights}
        for start in range(0, self._count, self._batch_size):
            batch = global_batch(self._read(start), self._mesh)
            for which, params in weights.items():
                rows = self._rows(params, others, batch, *self._frozen)
                found[which].append(jax.device_get(rows))
        numbers: dict[str, float] = {}
        for which, parts in found.items():
            joined = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
            numbers |= self._means(which, {n: rows[: self._count] for n, rows in joined.items()})
        return numbers

    def _read(self, start: int) -> dict[str, np.ndarray]:
        """This process's rows of the batch from `start` on; the last example fills it up."""
        rows = self._batch_size // jax.process_count()
        wanted = start + jax.process_index() * rows + np.arange(rows)
        indices = np.minimum(wanted, self._count - 1)
        batch = self._source.read_batch(indices, np.zeros(rows, bool))
        there = batch.pop("rows", np.arange(rows))
        full = {name: np.zeros((rows, *a.shape[1:]), a.dtype) for name, a in batch.items()}
        for name, array in batch.items():
            full[name][there] = array
        columns = {name: column[indices] for name, column in self._columns.items()}
        return (
            full
            | columns
            | {INDEX: indices.astype(np.uint32), HELD: np.isin(np.arange(rows), there)}
        )

    def _means(self, which: str, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers of one kind of weights; values: of every example, by term, and HELD."""
        held, prefix = values[HELD], PREFIXES[which]
        if not held.any():
            raise ValueError(f"none of the {len(held):,} held-out examples can be read")
        parts = {"": held}
        if TIME in self._columns:
            quarter = np.minimum(self._columns[TIME] * NUM_BINS, NUM_BINS - 1).astype(int)
            parts |= {f"_t{k}": held & (quarter == k) for k in range(NUM_BINS)}
        return {
            f"{prefix}{name}{part}": float(np.mean(values[name][rows], dtype=np.float64))
            for name in values
            if name != HELD
            for part, rows in parts.items()
            if rows.any()
        }


def is_of_bin(name: str) -> bool:
    """Whether a number is of some of the times alone."""
    return _OF_BIN.search(name) is not None


def _weights(state: TrainState) -> dict[str, Any]:
    return {WEIGHTS: state.params} | ({} if state.ema is None else {MAIN: state.ema})


def _others(state: TrainState) -> TrainState:
    """What a loss needs of a state besides the weights: step and companions."""
    return dataclasses.replace(state, params={}, averages={}, opt_state=())
