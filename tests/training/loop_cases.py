"""The loop on a model of one weight, whose batch is one number."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.metrics_log import TIMED
from lightningdit_jax.parallel.ending import preemption_notice
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.loop import Loop
from lightningdit_jax.training.run_record import Feed, Run
from lightningdit_jax.training.snapshots import Snapshots
from lightningdit_jax.training.spikes import fresh_windows
from lightningdit_jax.training.state import create_state
from lightningdit_jax.training.update import apply_gradients

CONFIG = TrainConfig(
    init="",
    init_weights="ema",
    init_labels="",
    init_exclude=(),
    num_steps=12,
    batch_size=1,
    accumulate_steps=1,
    ema_decay=0.9,
    ema_decays=(),
    ema_sigmas=(),
    snapshot_every_steps=0,
    log_every_steps=4,
    checkpoint_every_steps=3,  # not a multiple of the logging window, on purpose
    keep_checkpoints=2,
    keep_every_steps=0,
    evaluate_every_steps=0,
    validate_every_steps=0,
    validate_examples=1,
    best_metric="",
    nonfinite="stop",
    max_nonfinite=2,
    spikes="off",
    spike_window=8,
    spike_factor=8.0,
    max_spikes=100,
    writers=("tensorboard",),
    picture_every_steps=0,
    profile_steps=(),
)


class Counter:
    """Batch k is the number k, or NaN where told."""

    def __init__(self, nan_at=()):
        self.next, self.nan_at = 0, nan_at

    def __next__(self):
        k, self.next = self.next, self.next + 1
        return {"x": np.float32(np.nan if k in self.nan_at else k / 10)}

    def get_state(self):
        return {"next_index": self.next}

    def set_state(self, state):
        self.next = state["next_index"]

    def find_unfit(self, state):
        return [f"number {state['next_index']}"] if state["next_index"] in self.nan_at else []


def run(
    workdir,
    *,
    nan_at=(),
    fail_at=None,
    terminate_at=None,
    iterator=None,
    evaluator=None,
    held_out=None,
    picture=None,
    optimizer=None,
    step_fn=None,
    peak_rate=None,
    lines=None,
    meta=None,
    **changes,
):
    """Trains w towards the batch values.

    fail_at: step that the process's work ends at; terminate_at: step during which SIGTERM comes.
    step_fn: another step. lines: a list that what is said is added to. meta: more of it.
    """
    config = dataclasses.replace(CONFIG, **changes)
    optimizer = optimizer or optax.adam(0.1)
    lines = [] if lines is None else lines
    watched = () if config.spikes == "off" else ("loss", "grad_norm")

    def create():
        return create_state(
            {"w": jnp.ones(3)},
            optimizer,
            ema=config.ema_decay > 0,
            ema_decays=config.ema_decays,
            ema_sigmas=config.ema_sigmas,
            spikes=fresh_windows(watched, config.spike_window),
        )

    @jax.jit
    def step(state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p["w"] - batch["x"]) ** 2))(
            state.params
        )
        state, metrics = apply_gradients(
            state,
            grads,
            loss,
            optimizer,
            config.ema_decay,
            config.ema_decays,
            spike_factor=config.spike_factor,
            ema_sigmas=config.ema_sigmas,
        )
        return state, {"loss": loss, **metrics}

    def to_device(batch):
        if iterator_.next == fail_at:
            raise KeyboardInterrupt
        if iterator_.next == terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return jax.device_put(batch)

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), jax.eval_shape(create)
    )
    iterator_ = iterator or Counter(nan_at)
    checkpoints = TrainingCheckpoints(workdir, keep=config.keep_checkpoints)
    best = BestCheckpoint(workdir, config.best_metric) if config.best_metric else None
    snapshots = Snapshots(workdir) if config.snapshot_every_steps else None
    train = json.loads(json.dumps(dataclasses.asdict(config)))
    meta = {"format_version": 1, "config": {"train": train}, **(meta or {})}
    try:
        with preemption_notice() as preempted:
            record = Run(
                config=config,
                workdir=str(workdir),
                meta=meta,
                step_fn=step_fn or step,
                init_state=create,
                abstract_state=abstract,
                feed=Feed(iterator_, to_device, iterator_.find_unfit),
                checkpoints=checkpoints,
                best=best,
                snapshots=snapshots,
                evaluator=evaluator,
                held_out=held_out,
                picture=picture,
                peak_rate=peak_rate,
                preempted=preempted,
                say=lines.append,
            )
            return Loop(record).run(), lines
    finally:
        checkpoints.close()
        if snapshots:
            snapshots.close()


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
