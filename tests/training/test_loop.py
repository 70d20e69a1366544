"""The loop on a model of one weight: exact resume, and what a NaN does under each policy."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.training.loop import Loop, NonFiniteError
from lightningdit_jax.training.state import create_state
from lightningdit_jax.training.update import apply_gradients

CONFIG = TrainConfig(
    num_steps=12,
    batch_size=1,
    ema_decay=0.9,
    log_every_steps=4,
    checkpoint_every_steps=3,  # not a multiple of the logging window, on purpose
    keep_checkpoints=2,
    nonfinite="stop",
    max_nonfinite=2,
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


def run(workdir, *, nan_at=(), fail_at=None, iterator=None, **changes):
    """Trains w towards the batch values; `fail_at` ends the process's work at that step."""
    config = dataclasses.replace(CONFIG, **changes)
    optimizer = optax.adam(0.1)

    def create():
        return create_state({"w": jnp.ones(3)}, optimizer, ema=True)

    @jax.jit
    def step(state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p["w"] - batch["x"]) ** 2))(
            state.params
        )
        state, metrics = apply_gradients(state, grads, loss, optimizer, config.ema_decay)
        return state, {"loss": loss, **metrics}

    def to_device(batch):
        if iterator_.next == fail_at:
            raise KeyboardInterrupt
        return batch

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), jax.eval_shape(create)
    )
    iterator_ = iterator or Counter(nan_at)
    checkpoints = TrainingCheckpoints(workdir, keep=config.keep_checkpoints)
    lines = []
    loop = Loop(
        step_fn=step,
        init_state=create,
        abstract_state=abstract,
        iterator=iterator_,
        to_device=to_device,
        config=config,
        checkpoints=checkpoints,
        workdir=str(workdir),
        meta={"format_version": 1},
        is_main=True,
        say=lines.append,
    )
    try:
        return loop.run(), lines
    finally:
        checkpoints.close()


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines
    ]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return run(workdir)[0], records(workdir)


def test_records_are_means_over_the_window(whole):
    state, written = whole
    assert int(state.step) == 12
    assert [r["step"] for r in written] == [4, 8, 12]
    w, losses = np.ones(3), []
    adam = optax.adam(0.1)
    opt = adam.init(jnp.asarray(w, jnp.float32))
    for k in range(4):
        losses.append(np.sum((w - k / 10) ** 2))
        update, opt = adam.update(jnp.asarray(2 * (w - k / 10), jnp.float32), opt)
        w = w + np.asarray(update)
    assert written[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("fail_at", [1, 4, 5, 8, 11, 12])
def test_interrupted_run_ends_with_the_same_bits(whole, tmp_path, fail_at):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=fail_at)
    state, lines = run(tmp_path)
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]
    if fail_at > 3:
        assert lines[0].startswith(f"resumed from step {(fail_at - 1) // 3 * 3}")


def test_a_record_cut_short_is_dropped(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=8)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    run(tmp_path)
    assert records(tmp_path) == whole[1]


def test_finished_run_does_nothing_again(whole, tmp_path):
    run(tmp_path)
    state, _ = run(tmp_path)
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]


def test_stop_names_the_step_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 8: loss nan.*checkpoint of step 6 is kept"):
        run(tmp_path, nan_at=(7,))
    assert TrainingCheckpoints(tmp_path, keep=2).latest_step() == 6


def test_skip_leaves_the_state_and_goes_on(tmp_path):
    state, lines = run(tmp_path, nan_at=(7,), nonfinite="skip")
    assert any("step 8" in line and "skip" in line for line in lines)
    assert records(tmp_path)[-1]["nonfinite_steps"] == 1
    other, _ = run(tmp_path / "other", nan_at=(7,), nonfinite="skip", num_steps=8)
    before, _ = run(tmp_path / "before", num_steps=7)
    assert_same(other.params, before.params)
    assert_same(other.opt_state, before.opt_state)
    assert int(other.step) == 8 and np.isfinite(state.params["w"]).all()


def test_rollback_returns_to_the_checkpoint_with_later_data(tmp_path):
    iterator = Counter(nan_at=(7,))
    state, lines = run(tmp_path, iterator=iterator, nonfinite="rollback")
    assert any("rolled back from step 8 to 6" in line for line in lines)
    assert int(state.step) == 12 and np.isfinite(state.params["w"]).all()
    assert iterator.next == 12 + 2  # two batches were spent on steps 7 and 8
    assert [r["step"] for r in records(tmp_path)] == [4, 8, 12]


def test_rollback_before_the_first_checkpoint_restarts(tmp_path):
    state, lines = run(tmp_path, nan_at=(1,), nonfinite="rollback")
    assert any("to 0" in line for line in lines) and int(state.step) == 12


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_bad_steps_stop_all_the_same(tmp_path, policy):
    with pytest.raises(NonFiniteError):
        run(tmp_path, nan_at=range(4, 100), nonfinite=policy)
