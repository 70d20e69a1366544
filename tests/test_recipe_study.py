"""The study of switches: what it trains is what main.py trains, and what it says of it."""

import argparse
import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks import recipe_results, recipes
from benchmarks.recipe_results import FLOPS, STEPS
from benchmarks.recipe_runs import sampling_flops, train_together, training_flops
from benchmarks.recipe_switches import BASELINE, SWITCHES, Switch, combined
from benchmarks.recipes import at_equal_flops, baseline_of
from lightningdit_jax.training.run import train
from tests import tiny

NAMES = {switch.name: switch for switch in SWITCHES}


@pytest.fixture(scope="module")
def baseline():
    options = {"demo": pathlib.Path("demo"), "output": pathlib.Path("out")}
    return baseline_of(argparse.Namespace(**options, steps=400, samples=200))


def run(fids, shares=(0.5,) * 5):
    """Of five training seeds and two sampling seeds, which differ by 0.2 around these."""
    numbers = {
        str(seed): {
            str(drawn): {"digits_fid": fid + 0.2 * drawn - 0.1, "recognised_share": share}
            for drawn in (0, 1)
        }
        for seed, (fid, share) in enumerate(zip(fids, shares))
    }
    return {"numbers": numbers, "step_flops": 1.0, "sampling_flops": 1.0}


def test_differences_are_paired_by_training_seed():
    """scipy's paired t-test is another implementation."""
    base, other = np.array([[3.0, 1.0, 2.0, 5.0, 4.0], [2.7, 0.9, 1.7, 4.6, 3.9]])
    bar = recipe_results.difference(run(other)["numbers"], run(base)["numbers"], "digits_fid")
    interval = stats.ttest_rel(other, base).confidence_interval(0.95)
    np.testing.assert_allclose(bar.interval, interval)
    assert bar.value == pytest.approx(np.mean(other - base))


def test_the_words_of_the_table_and_the_gains_follow_the_intervals():
    base = [3.0, 1.0, 2.0, 5.0, 4.0]
    lower, higher, same = ([x + d for x, d in zip(base, ds)] for ds in (
        (-0.31, -0.29, -0.3, -0.32, -0.28), (0.3, 0.2, 0.3, 0.2, 0.3), (0.5, -0.5, 0.1, -0.1, 0.0)
    ))  # fmt: skip
    rows = {
        BASELINE: {STEPS: run(base)},
        "A": {STEPS: run(lower, (0.6, 0.61, 0.6, 0.61, 0.6)) | {"step_flops": 2.0}},
        "B": {STEPS: run(lower), FLOPS: run(higher)},
        "C": {STEPS: run(same)},
    }
    assert recipe_results.gains(rows) == {"A": pytest.approx(0.3)}
    lines = recipe_results.table(rows).splitlines()[-3:]
    assert [line.count("better") for line in lines] == [2, 1, 0]
    assert [line.count("worse") for line in lines] == [0, 1, 0]
    assert lines[0].startswith("| A | 2.00 | 1.00 | -0.300 ± 0.020 **better** | the same |")
    assert recipe_results.summary(rows).splitlines()[0] == (
        "digits_fid: 4 differences, 3 larger than the spread (2 better, 1 worse); if no switch did "
        "anything, 0.2 would be by chance"
    )


def test_a_combination_has_the_best_of_each_part_and_no_two_that_exclude_each_other():
    def changes(gains):
        best = combined(SWITCHES, gains)
        return best and dict(best.changes)

    gains = {"no guidance": 0.1, "APG, eta 0": 0.2, "EMA of width 0.1": 0.3}
    assert changes(gains) == {"sample": {"apg_eta": 0.0, "ema_sigma": 0.1}}
    assert changes({"Muon": 0.2, "REPA": 0.1}) == dict(NAMES["Muon"].changes)
    assert changes({"Muon": 0.1, "REPA": 0.2}) == dict(NAMES["REPA"].changes)
    assert changes({}) is None


def test_every_switch_changes_the_baseline_and_is_of_a_name_of_its_own(baseline):
    assert len(NAMES) == len(SWITCHES)
    for switch in SWITCHES:
        config = switch.of(baseline)
        assert config != baseline, switch.name
        kept = dataclasses.replace(config, sample=baseline.sample)
        assert (kept != baseline) == switch.trains, switch.name


def test_without_the_demo_a_line_says_what_makes_it(tmp_path, monkeypatch, capsys):
    arguments = [f"--demo={tmp_path}", f"--output={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["recipes", *arguments])
    with pytest.raises(SystemExit) as ended:
        recipes.main()
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    line = f"error: {tmp_path / 'tokenizer'}: no such folder; `make demo` makes it\n"
    assert capsys.readouterr().err == line


def test_equal_flops_are_equal(baseline):
    """Guidance asks twice as often; a step of Muon and one of AdamW differ by its products."""
    unguided = at_equal_flops(NAMES["no guidance"].of(baseline), baseline)
    assert unguided.sample.num_steps - 1 == 2 * (baseline.sample.num_steps - 1)
    assert unguided.train == baseline.train
    muon = at_equal_flops(NAMES["Muon"].of(baseline), baseline)
    ours, theirs = (c.train.num_steps * training_flops(c) for c in (muon, baseline))
    assert muon.train.num_steps < 0.7 * baseline.train.num_steps
    assert ours == pytest.approx(theirs, rel=0.005)
    assert sampling_flops(muon) == sampling_flops(baseline)
    alike = Switch("", "", {"flow": {"cosine_weight": 0.0}}).of(baseline)
    assert at_equal_flops(alike, baseline) == alike


@pytest.mark.slow
def test_runs_that_are_trained_together_are_those_of_train(tmp_path):
    """Seeds and rates are arguments of one program there, and constants here."""
    latents = tiny.write_latents(tmp_path / "latents")
    config = tiny.config(
        "digits_dit", data__path=str(latents), train__num_steps=3, train__ema_sigmas=(0.1,)
    )
    runs = [(7, 1e-3), (8, 1e-2)]
    states, losses = train_together(config, *zip(*runs))
    assert losses.shape == (2, 3)
    for (seed, rate), state in zip(runs, states):
        one = dataclasses.replace(config, seed=seed).changed(optimizer={"learning_rate": rate})
        whole = train(one, str(tmp_path / f"run_{seed}"))
        for ours, theirs in zip(*map(jax.tree.leaves, (state, whole)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
