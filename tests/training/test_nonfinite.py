"""A step that is not finite: batch and model are told apart, and each has its advice."""

import numpy as np
import pytest

from lightningdit_jax.data.latents import LatentShards, save_stats, shard_name, write_shard
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.training.nonfinite import NonFiniteError
from lightningdit_jax.training.run import train
from tests import tiny
from tests.training.loop_cases import Counter, run

MODEL = "while its batch is, so it is the model"


class Blameless(Counter):
    """Its batches are NaN as a model's loss may be: the data is none the worse."""

    def find_unfit(self, state):
        return []


def test_stop_names_the_batch(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, nan_at=(7,))
    text = str(caught.value)
    assert text.startswith("step 8: loss nan, gradient norm nan: not finite, because its batch is")
    assert "is not: number 7. The checkpoint of step 6 is kept" in text
    assert "extract these latents again (--mode=extract)" in text and "nonfinite=skip" in text
    assert "max_grad_norm" not in text and "use_qknorm" not in text


def test_stop_names_the_model(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, iterator=Blameless((7,)))
    text = str(caught.value)
    assert MODEL in text and "extract" not in text
    for advice in ("nonfinite=skip or rollback", "max_grad_norm", "use_qknorm=True in a new run"):
        assert advice in text


@pytest.mark.parametrize("policy", ["skip", pytest.param("rollback", marks=pytest.mark.slow)])
def test_other_policies_say_it_too(tmp_path, policy):
    """After a rollback the number of a batch is no longer that of its step."""
    _, lines = run(tmp_path, nan_at=(7, 11), nonfinite=policy)
    said = [line for line in lines if "not finite" in line]
    steps = ("8", "12") if policy == "skip" else ("8", "10")
    for line, step, number in zip(said, steps, (7, 11), strict=True):
        assert line.startswith(f"step {step}: loss nan")
        assert f"because its batch is not: number {number}. {policy}; extract" in line
    _, lines = run(tmp_path / "model", iterator=Blameless((7,)), nonfinite=policy)
    [line] = [line for line in lines if "not finite" in line]
    assert MODEL in line and "max_grad_norm" in line and "extract" not in line


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_the_step_that_is_one_too_many_says_so(tmp_path, policy):
    nan_at, kept = ((7, 8, 9), 9) if policy == "skip" else ((3, 6, 9), 3)
    match = rf"number 9\. config\.train\.max_nonfinite is 2\. The checkpoint of step {kept} is kept"
    with pytest.raises(NonFiniteError, match=match):
        run(tmp_path, nan_at=nan_at, nonfinite=policy)


def test_a_long_list_is_cut(tmp_path):
    class Many(Counter):
        def find_unfit(self, state):
            return [f"number {n}" for n in range(9)]

    with pytest.raises(NonFiniteError, match=r"not: number 0; .*; number 4 and 4 more\. The"):
        run(tmp_path, iterator=Many((7,)))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.nan, "numbers are not finite"),
        pytest.param(3e19, r"numbers as large as 3e\+19", marks=pytest.mark.slow),
    ],
)
def test_training_names_file_and_row(tmp_path, value, what):
    latents = np.random.default_rng(0).normal(0, 1, (8, 4, 4, 8)).astype(np.float32)
    latents[5] = value
    write_shard(tmp_path, 0, 0, latents, latents, np.arange(8))
    save_stats(tmp_path, LatentScaling([0.0] * 8, [1.0] * 8))
    assert len(LatentShards(tmp_path)) == 8
    config = tiny.config("digits_dit", data__path=str(tmp_path), model__depth=1)
    where = rf"record 5 \({tmp_path / shard_name(0, 0)}, row 5 of latents(_flip)?\)"
    match = rf"^step 1: .*its batch is not: {where}: .*{what}\. No checkpoint is kept"
    with pytest.raises(NonFiniteError, match=match):
        train(config, str(tmp_path / "workdir"))
