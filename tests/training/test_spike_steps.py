"""What a run does with spikes: skip, go back once to each checkpoint, a new level, a restart."""

import numpy as np
import pytest

from lightningdit_jax.checkpoint import find_checkpoint, item_names
from lightningdit_jax.config import from_dict
from lightningdit_jax.configs import base
from lightningdit_jax.training.spike_steps import SpikesError
from tests.training.loop_cases import Counter, assert_same, records, run

SKIP, ROLLBACK = {"spikes": "skip"}, {"spikes": "rollback"}


class Noisy(Counter):
    """Numbers near 5; a hundredfold where told, and 50 from a level's first on."""

    def __init__(self, spikes=(), level=10**9):
        super().__init__()
        self.spikes, self.level = spikes, level

    def __next__(self):
        k, self.next = self.next, self.next + 1
        number = 5 + 0.2 * np.sin(37.0 * k)
        factor = 100 if k in self.spikes else 10 if k >= self.level else 1
        return {"x": np.float32(factor * number)}


def go(workdir, at=(7,), level=10**9, **changes):
    """(state, lines, the iterator) of a run."""
    iterator = Noisy(at, level)
    return *run(workdir, iterator=iterator, **changes), iterator


def said(lines):
    return [line for line in lines if ": a spike, " in line]


def test_skip_leaves_the_state_and_says_what_was_seen(tmp_path):
    before, _, _ = go(tmp_path / "before", num_steps=7, log_every_steps=1, **SKIP)
    after, lines, _ = go(tmp_path / "after", num_steps=8, log_every_steps=1, **SKIP)
    for name in ("params", "opt_state", "averages"):
        assert_same(getattr(after, name), getattr(before, name))
    assert int(after.step) == 8
    [line] = said(lines)
    assert line.startswith("step 8: a spike, grad_norm 1") and line.endswith("; skipped")
    losses = [record["loss"] for record in records(tmp_path / "before")]
    median = np.exp(np.median(np.log(losses)))
    assert f", the median of 8 steps {median:.4g}; skipped" in line and ", loss 8" in line
    *_, seventh, eighth = records(tmp_path / "after")
    assert eighth == {"step": 8, "spikes": 1} and "spikes" not in seventh


def test_a_skipped_step_is_in_no_mean(tmp_path):
    go(tmp_path / "all", num_steps=7, log_every_steps=1)
    go(tmp_path, **SKIP)
    _, mean, last = records(tmp_path)
    norms = {"grad_norm", "weight_norm", "update_norm"}
    assert set(mean) == {"step", "loss", "spikes", *norms} and last["spikes"] == 1
    want = np.mean([record["loss"] for record in records(tmp_path / "all")[4:]])
    assert mean["loss"] == pytest.approx(want, rel=1e-6)


def test_a_checkpoint_is_gone_back_to_once(tmp_path):
    """Then what comes before the next one is skipped; the data go on behind the spike."""
    state, lines, iterator = go(tmp_path, at=(7, 8, 12), **ROLLBACK)
    ends = [line.rpartition("; ")[2] for line in said(lines)]
    assert ends == ["rollback", "skipped", "rollback"]
    assert [line for line in lines if "rolled back" in line] == [
        "rolled back from step 8 to 6; the data goes on",
        "rolled back from step 11 to 9; the data goes on",
    ]
    assert iterator.next == 12 + 2 + 3 and int(state.step) == 12
    # The windows are those of the checkpoint, with what came after it.
    seen = np.exp(state.spikes["loss"])
    assert np.isfinite(seen).all() and (seen > 1000).sum() == 1


def test_before_the_first_checkpoint(tmp_path):
    """No verdict before half a window, and then back to the beginning."""
    _, lines, _ = go(tmp_path, at=(2, 5), checkpoint_every_steps=12, **ROLLBACK)
    assert len(said(lines)) == 1 and "rolled back from step 6 to 0; the data goes on" in lines


def test_a_restart_changes_no_bit(tmp_path):
    """One spike is gone back from, the next two are skipped, all before the kill."""
    settings = {"at": (7, 8, 13), "num_steps": 20, **ROLLBACK}
    whole, lines, _ = go(tmp_path / "whole", **settings)
    assert len(said(lines)) == 3 and not any("a new level" in line for line in lines)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", fail_at=18, **settings)
    killed, _, _ = go(tmp_path / "killed", **settings)
    assert_same(killed, whole)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


@pytest.mark.slow
def test_after_four_in_a_row_it_is_a_new_level(tmp_path):
    """The weights stand still so long, and then follow; that is said once."""
    state, lines, _ = go(tmp_path, at=(), level=20, num_steps=40, spike_window=16, **SKIP)
    steps = [int(line.split()[1].rstrip(":")) for line in said(lines)]
    assert steps == [21, 22, 23, 24]
    [line] = [line for line in lines if "a new level" in line]
    assert line.startswith("step 25: ")
    assert line.endswith("; taken, as 4 in a row are no bad batch but the weights or a new level")
    kept, _, _ = go(tmp_path / "kept", at=(), num_steps=20, spike_window=16, **SKIP)
    assert (state.params["w"] > kept.params["w"] + 1).all()


def test_too_many_stop_the_run(tmp_path):
    match = r"step 9: a spike, .*max_spikes is 1\. The checkpoint of step 6 is kept\. Lower config"
    with pytest.raises(SpikesError, match=match):
        go(tmp_path, at=(7, 8), max_spikes=1, **SKIP)


def test_the_policy_and_its_window_may_change_within_a_run(tmp_path):
    def items():
        return item_names(find_checkpoint(str(tmp_path)))

    empty = "window of this size for train.spikes: it begins empty"
    plain, _, _ = go(tmp_path / "plain", at=(), num_steps=9)
    go(tmp_path, at=(), num_steps=3)
    assert "spikes" not in items()
    state, lines, _ = go(tmp_path, at=(), num_steps=6, **SKIP)
    assert f"step 3 has no {empty}" in lines and "spikes" in items()
    assert np.isfinite(state.spikes["loss"]).sum() == 3
    state, lines, _ = go(tmp_path, at=(), num_steps=7, **ROLLBACK)
    assert not any(empty in line for line in lines)
    assert np.isfinite(state.spikes["loss"]).sum() == 4
    state, lines, _ = go(tmp_path, at=(), num_steps=8, spike_window=9, **SKIP)
    assert f"step 7 has no {empty}" in lines and state.spikes["loss"].shape == (9,)
    state, _, _ = go(tmp_path, at=(), num_steps=9)
    assert not state.spikes and "spikes" not in items()
    assert_same(state, plain)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("spikes", "stop", "config.train.spikes 'stop'"),
        ("spike_window", 4, "config.train.spike_window is 4; expected at least 8 and at most"),
        ("spike_factor", 0.0, "config.train.spike_factor is 0.0; expected above 0"),
        ("spike_factor", float("nan"), "config.train.spike_factor is nan"),
        ("max_spikes", 0, "config.train.max_spikes is 0; expected at least 1"),
    ],
)
def test_bad_values_are_refused(key, value, told):
    config = base.get_config()
    config.train[key] = value
    with pytest.raises(ValueError, match=told):
        from_dict(config)
