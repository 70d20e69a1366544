"""Learning rates by step against their formulas, and in the records of a run."""

import dataclasses

import numpy as np
import pytest

from lightningdit_jax.training.run import train
from lightningdit_jax.training.schedules import make_schedule
from tests import tiny
from tests.training.loop_cases import assert_same, records
from tests.training.test_optimizer import CONFIG

STEPS, WARMUP, RATE = 40, 8, 0.5


def rates(name, *, warmup=WARMUP, decay_steps=0, end_factor=0.0):
    config = dataclasses.replace(
        CONFIG,
        learning_rate=RATE,
        schedule=name,
        warmup_steps=warmup,
        decay_steps=decay_steps,
        end_factor=end_factor,
    )
    schedule = make_schedule(config, STEPS)
    return np.array([schedule(np.int32(step)) for step in range(STEPS)]) / RATE


def up(warmup):
    return np.minimum(np.arange(1, STEPS + 1) / warmup, 1.0) if warmup else np.ones(STEPS)


@pytest.mark.parametrize("warmup", [0, 1, WARMUP])
def test_rise_and_fall_are_as_defined(warmup):
    step = np.arange(STEPS)
    part = np.maximum(step - warmup, 0) / (STEPS - warmup)  # of the fall
    close = {"rtol": 2e-6, "atol": 1e-6}
    np.testing.assert_allclose(rates("constant", warmup=warmup), up(warmup), **close)
    linear = rates("linear", warmup=warmup, end_factor=0.1)
    np.testing.assert_allclose(linear, up(warmup) * (1 - 0.9 * part), **close)
    cosine = rates("cosine", warmup=warmup, end_factor=0.1)
    wanted = up(warmup) * (0.1 + 0.45 * (1 + np.cos(np.pi * part)))
    np.testing.assert_allclose(cosine, wanted, **close)
    trapezoid = rates("trapezoid", warmup=warmup, decay_steps=10)
    np.testing.assert_allclose(trapezoid, up(warmup) * np.minimum((STEPS - step) / 10, 1), **close)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cosin"}, r"config\.optimizer\.schedule 'cosin'; did you mean 'cosine'"),
        ({"name": "linear", "warmup": STEPS}, "'linear' with warmup_steps 40 and"),
        ({"name": "trapezoid"}, "with warmup_steps 8, decay_steps 0 and config.train.num_steps 40"),
        ({"name": "trapezoid", "decay_steps": 33}, "all of them after the warm-up"),
    ],
)
def test_what_leaves_no_steps_to_fall_in_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        rates(**changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_dit", "digits_vavae"])
def test_a_restarted_run_writes_the_rates_of_an_unbroken_one(tmp_path, name):
    """Killed in the evaluation of step 5, between two checkpoints and within a window."""
    changes = {}
    if name == "digits_dit":
        latents = str(tiny.write_latents(tmp_path / "latents"))
        changes = {"data__path": latents, "model__depth": 1}
    config = tiny.config(
        name,
        **changes,
        optimizer__schedule="cosine",
        optimizer__learning_rate=0.01,
        optimizer__warmup_steps=2,
        train__num_steps=6,
        train__log_every_steps=2,
        train__checkpoint_every_steps=3,
        train__evaluate_every_steps=5,
    )

    def go(name, evaluator):
        return train(config, str(tmp_path / name), lambda planned, scaling: evaluator)

    def killed(step, state):
        raise KeyboardInterrupt

    whole = go("whole", lambda step, state: {"step": step})
    with pytest.raises(KeyboardInterrupt):
        go("killed", killed)
    assert_same(go("killed", lambda step, state: {"step": step}), whole)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    seen = [r["learning_rate"] for r in records(tmp_path / "whole") if "learning_rate" in r]
    falls = 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(seen, [0.0075, falls[:2].mean(), falls[2:].mean()], rtol=1e-5)
