"""A running workdir whose clipping, warm-up or averages are changed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.checkpoint import TrainingCheckpoints, find_checkpoint, item_names
from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.restore import restore_state
from lightningdit_jax.training.run import train
from lightningdit_jax.training.state import create_state
from tests import tiny
from tests.training.loop_cases import assert_same, records, run

PUBLISHED = OptimizerConfig(
    name="adamw",
    learning_rate=0.1,
    schedule="constant",
    warmup_steps=0,
    decay_steps=0,
    end_factor=0.0,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    momentum=0.95,
    weight_decay=0.0,
    max_grad_norm=0.0,
    freeze=(),
    rate_factors=(),
)
CHANGES = {
    "clipping": {"max_grad_norm": 0.3},
    "warm-up": {"warmup_steps": 10},
    "both": {"max_grad_norm": 0.3, "warmup_steps": 10},
}


def changed(workdir, first, then, **killed):
    """Six steps with the settings `first`, then to the twelfth with `then`; what the latter says.

    Settings are those of the optimizer or of the loop.
    """

    def go(settings, num_steps, **options):
        fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
        optimizer = {k: v for k, v in settings.items() if k in fields}
        others = {k: v for k, v in settings.items() if k not in fields}
        optimizer = make_optimizer(dataclasses.replace(PUBLISHED, **optimizer), num_steps)
        return run(workdir, optimizer=optimizer, num_steps=num_steps, **others, **options)

    before, _ = go(first, 6)
    if killed:
        with pytest.raises(KeyboardInterrupt):
            go(then, 12, **killed)
    after, lines = go(then, 12)
    return before, after, lines


@pytest.mark.parametrize(
    "name",
    [name if name == "both" else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES],
)
def test_the_optimizer_goes_on_with_its_moments(tmp_path, name):
    """As optax's own chain does that is given Adam's moments and count."""
    before, after, _ = changed(tmp_path, {}, CHANGES[name])
    clip, steps = CHANGES[name].get("max_grad_norm"), CHANGES[name].get("warmup_steps")
    rate = optax.linear_schedule(0.01, 0.1, 9) if steps else 0.1
    optimizer = optax.chain(
        optax.clip_by_global_norm(clip or 1e9), optax.adamw(rate, b2=0.95, weight_decay=0.0)
    )
    params, state = before.params, optimizer.init(before.params)
    adam, *rest = state[1]
    adam = adam._replace(**before.opt_state[0]._asdict())
    if steps:
        rest[-1] = rest[-1]._replace(count=jnp.int32(6))
    state = (state[0], (adam, *rest))
    for k in range(6, 12):
        grads = {"w": 2 * (params["w"] - np.float32(k / 10))}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after.params["w"], params["w"], rtol=1e-6)
    plain, _ = run(tmp_path / "plain", optimizer=make_optimizer(PUBLISHED, 12))
    assert np.abs(np.asarray(after.params["w"] - plain.params["w"])).max() > 1e-3


@pytest.mark.parametrize("fail_at", [7, pytest.param(11, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, CHANGES["both"]),
        (CHANGES["both"], {}),
        ({"ema_decay": 0.0}, {"ema_decay": 0.9}),
        ({"ema_decay": 0.9}, {"ema_decay": 0.0}),
    ],
)
def test_a_kill_after_the_change_changes_no_bit(tmp_path, first, then, fail_at):
    _, whole, _ = changed(tmp_path / "whole", first, then)
    _, killed, _ = changed(tmp_path / "killed", first, then, fail_at=fail_at)
    assert_same(whole, killed)
    assert records(tmp_path / "whole") == records(tmp_path / "killed")


def test_averages_start_from_the_restored_weights(tmp_path):
    states = {n: run(tmp_path / str(n), num_steps=n, ema_decay=0.0)[0].params for n in (6, 7, 8)}
    state, lines = run(tmp_path / "6", num_steps=8, ema_decay=0.75)
    assert_same(state.params, states[8])
    w = {n: np.asarray(params["w"], np.float64) for n, params in states.items()}
    want = 0.75 * (0.75 * w[6] + 0.25 * w[7]) + 0.25 * w[8]
    np.testing.assert_allclose(state.ema["w"], want, rtol=1e-6)
    assert "step 6 has no averaged weights: they start as a copy of its weights" in lines
    assert "ema" in item_names(find_checkpoint(str(tmp_path / "6")))
    _, lines = run(tmp_path / "6", num_steps=9, ema_decay=0.75)
    assert not any("averaged" in line for line in lines)


def test_averages_are_not_dropped_silently(tmp_path):
    with_averages, state, lines = changed(tmp_path, {"ema_decay": 0.9}, {"ema_decay": 0.0})
    [line] = [line for line in lines if "averaged" in line]
    assert "config.train.ema_decay is 0: the averaged weights of step 6 end here" in line
    assert f"{tmp_path}/checkpoints/6 holds them" in line
    assert state.ema is None and with_averages.ema is not None
    assert "ema" not in item_names(find_checkpoint(str(tmp_path)))
    state, lines = run(
        tmp_path, optimizer=make_optimizer(PUBLISHED, 12), num_steps=12, ema_decay=0.9
    )  # and on again, of a run that is finished
    assert_same(state.ema, state.params)
    assert "step 12 has no averaged weights: they start as a copy of its weights" in lines


@pytest.mark.parametrize("on", [True, False])
def test_rollback_to_a_checkpoint_from_before_the_switch(tmp_path, on):
    run(tmp_path, num_steps=6, ema_decay=0.0 if on else 0.9)
    state, lines = run(tmp_path, nan_at=(7,), nonfinite="rollback", ema_decay=0.9 if on else 0.0)
    assert any("rolled back from step 8 to 6" in line for line in lines)
    said = "step 6 has no averaged weights" if on else "the averaged weights of step 6 end here"
    assert sum(said in line for line in lines) == 2  # at the start and after the rollback
    assert int(state.step) == 12 and np.isfinite(state.params["w"]).all()
    assert (state.ema is not None) == on == ("ema" in item_names(find_checkpoint(str(tmp_path))))


def test_companions_stay_when_averages_are_switched(tmp_path):
    adam = make_optimizer(PUBLISHED, 12)
    companions = {"critic": ({"v": jnp.arange(3.0)}, {"mean": jnp.ones(2)})}
    params = {"w": jnp.full(2, 5.0)}
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    states = {
        on: create_state(params, adam, ema=on, companions=companions).replace(step=jnp.int32(3))
        for on in (True, False)
    }
    for on, state in states.items():
        checkpoints = TrainingCheckpoints(tmp_path / str(on), keep=1)
        checkpoints.save(3, state.items(), {"loop": {"nonfinite": 1}})
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), states[not on]
        )
        restored, step, loop = restore_state(checkpoints, abstract, lambda line: None)
        checkpoints.close()
        assert (step, loop) == (3, {"nonfinite": 1})
        assert_same(restored, states[not on])


def test_a_state_of_the_former_layout_is_one_line(tmp_path):
    run(tmp_path, optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)))
    with pytest.raises(ValueError, match=r"checkpoints/12 holds an optimizer's state of another"):
        run(tmp_path, optimizer=make_optimizer(PUBLISHED, 12), num_steps=13)


@pytest.mark.slow
def test_a_generator_goes_on_with_other_settings(tmp_path, capsys):
    """The whole of `train`: a sharded state that the step donates."""
    folder = tmp_path / "latents"
    folder.mkdir()
    tiny.write_latents(folder)

    def go(steps, **changes):
        settings = {"optimizer__max_grad_norm": 0.0, "optimizer__warmup_steps": 0}
        settings |= {"train__ema_decay": 0.0, "train__num_steps": steps, "model__depth": 1}
        settings |= {"mesh__fsdp": 2, "data__path": str(folder)} | changes
        return train(tiny.config("digits_dit", **settings), str(tmp_path / "workdir"))

    start = go(2)
    changes = {"optimizer__max_grad_norm": 1e-3, "optimizer__warmup_steps": 8}
    state = go(4, train__ema_decay=0.99, **changes)
    assert "step 2 has no averaged weights" in capsys.readouterr().out
    moved, averaged = (
        optax.tree.norm(optax.tree.sub(tree, start.params)) for tree in (state.params, state.ema)
    )
    assert 0 < averaged < 0.05 * moved
    assert int(state.opt_state[0].count) == 4
