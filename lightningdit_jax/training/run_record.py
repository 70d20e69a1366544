"""What the training loop is given: one record, the same for generator and tokenizer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.snapshots import Snapshots
from lightningdit_jax.training.state import TrainState

Evaluator = Callable[[int, TrainState], Mapping[str, float]]
Picture = Callable[[epath.Path, TrainState], np.ndarray]


class DataIterator(Protocol):
    """What the loop needs of a Grain iterator; the state is a small JSON value."""

    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> dict: ...
    def set_state(self, state: dict) -> None: ...


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of this process, and how they come to the devices.

    to_device: host batch -> global arrays; nothing else may transfer anything. find_unfit: names
    the records, of this process's rows of the batch that comes next at a state of the iterator,
    that no step stays finite with; asked on all processes when one was not.
    """

    iterator: DataIterator
    to_device: Callable[[dict], Any]
    find_unfit: Callable[[dict], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run before it begins or goes on.

    meta: what its checkpoints say of themselves. step_fn(state, batch) -> (state, metrics):
    compiled; metrics are scalars with `finite` and `grad_norm`. abstract_state: shapes and
    shardings of the state, for restoring. evaluator(step, state) -> numbers, called on all
    processes every train.evaluate_every_steps and at the end, and held_out likewise every
    train.validate_every_steps; best: where the weights with the best train.best_metric go;
    snapshots: where averages go every train.snapshot_every_steps and at the end.
    described(state): what a checkpoint of a state says of itself besides meta; kept: names of
    companions without which the model's weights are of no use.
    picture(path, state): a picture, uint8 [H, W, 3], written as PNG by the main process, called on
    all of them every train.picture_every_steps and at the end.
    peak_rate: images a second at the devices' peak, None where it is not known.
    preempted(step): whether to save and end after this step, asked on all processes. say: prints a
    line, on the main process only.
    """

    config: TrainConfig
    workdir: str
    meta: dict[str, Any]
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict]]
    init_state: Callable[[], TrainState]
    abstract_state: TrainState
    feed: Feed
    checkpoints: TrainingCheckpoints
    best: BestCheckpoint | None = None
    snapshots: Snapshots | None = None
    evaluator: Evaluator | None = None
    held_out: Evaluator | None = None
    picture: Picture | None = None
    kept: Sequence[str] = ()
    described: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}
    peak_rate: float | None = None
    preempted: Callable[[int], bool] = lambda step: False
    say: Callable[[str], None] = print_once
