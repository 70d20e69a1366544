"""The loop on a model of one weight: exact resume, evaluation, and what a NaN does."""

import dataclasses
import io
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from lightningdit_jax import progress
from lightningdit_jax.checkpoint import (
    TrainingCheckpoints,
    find_checkpoint,
    item_names,
    read_meta,
)
from lightningdit_jax.data.images import UnreadableImageError
from lightningdit_jax.metrics_log import TIMED
from lightningdit_jax.parallel.ending import EXIT_STATUS, Preempted
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.nonfinite import NonFiniteError
from tests.training.loop_cases import CONFIG, Counter, assert_same, records, run
from tests.training.test_writer import events


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return run(workdir)[0], records(workdir)


def test_records_are_means_over_the_window(whole):
    state, written = whole
    assert int(state.step) == 12
    assert [r["step"] for r in written] == [4, 8, 12]
    w, losses, norms, moved = np.ones(3), [], [], []
    adam = optax.adam(0.1)
    opt = adam.init(jnp.asarray(w, jnp.float32))
    for k in range(4):
        losses.append(np.sum((w - k / 10) ** 2))
        update, opt = adam.update(jnp.asarray(2 * (w - k / 10), jnp.float32), opt)
        w = w + np.asarray(update)
        norms.append(np.sqrt(np.sum(w**2)))
        moved.append(np.sqrt(np.sum(np.asarray(update, float) ** 2)))
    assert written[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert written[0]["weight_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert written[0]["update_norm"] == pytest.approx(np.mean(moved), rel=1e-5)


def test_pictures_come_at_their_steps_and_again_after_a_kill(whole, tmp_path):
    def picture(path, state):
        if fails and int(state.step) == 5:
            raise KeyboardInterrupt
        drawn.append(int(state.step))
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"weights {float(state.params['w'][0])}")
        return np.full((4, 6, 3), int(state.step), np.uint8)

    every = {"picture": picture, "picture_every_steps": 5, "checkpoint_every_steps": 5}
    drawn, fails = [], True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **every)
    fails = False
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **every, fail_at=12)
    # Of a step that is taken again; the next start drops it before anything else.
    later = tmp_path / "pictures" / "12.png"
    later.write_text("of a run that went on")
    state, lines = run(tmp_path, **every)
    assert drawn == [5, 10, 12]
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]
    files = {path.name: path.read_text() for path in (tmp_path / "pictures").iterdir()}
    assert set(files) == {"5.png", "10.png", "12.png"}
    assert files["12.png"] == f"weights {float(state.params['w'][0])}"
    assert any(line.startswith(f"step 12: {later}") for line in lines)
    images = [
        (event.step, np.asarray(Image.open(io.BytesIO(v.image.encoded_image_string)))[0, 0, 0])
        for file in sorted((tmp_path / "tensorboard").iterdir())
        for event in events(file)
        for v in event.summary.value
        if v.tag == "picture"
    ]
    assert images == [(5, 5), (10, 10), (12, 12)]


class Slow(Counter):
    """Four seconds of waiting for each batch, and one of something else."""

    now = 100.0

    def perf_counter(self):
        return self.now

    def get_state(self):
        self.now += 1
        return super().get_state()

    def __next__(self):
        self.now += 4
        return super().__next__()


def test_what_a_clock_says(tmp_path, monkeypatch):
    clock = Slow()
    monkeypatch.setattr(progress, "time", clock)
    every = {"log_every_steps": 9, "checkpoint_every_steps": 12}
    _, lines = run(tmp_path, iterator=clock, peak_rate=2.0, **every)
    # Steps 2 to 9 are counted: the first one compiles. Two steps are on their way at a time.
    written = [json.loads(n) for n in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {k: written[0][k] for k in TIMED} == pytest.approx(
        {"images_per_second": 0.2, "data_wait": 0.8, "mfu": 0.1}
    )
    said = [line for line in lines if line.startswith("step ")]
    assert [line.split("/")[0] for line in said] == [f"step {n}" for n in (1, 3, 5, 9, 12)]
    assert said[3].endswith("  0 images/s  MFU 10.0%  data wait 80%  15s left")
    assert all("loss" in line and "weight_norm" not in line for line in said)


@pytest.mark.parametrize("fail_at", [1, 4, 5, 8, 11, 12])
def test_interrupted_run_ends_with_the_same_bits(whole, tmp_path, fail_at):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=fail_at)
    state, lines = run(tmp_path)
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]
    if fail_at > 3:
        assert lines[0].startswith(f"resumed from step {(fail_at - 1) // 3 * 3}")


def test_logging_and_saving_at_other_steps_change_no_bit(whole, tmp_path):
    state, _ = run(tmp_path, log_every_steps=5, checkpoint_every_steps=12)
    assert_same(state, whole[0])
    assert [r["step"] for r in records(tmp_path)] == [5, 10, 12]


def test_a_record_cut_short_is_dropped(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=8)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    run(tmp_path)
    assert records(tmp_path) == whole[1]


def test_finished_run_does_nothing_again(whole, tmp_path):
    run(tmp_path)
    state, lines = run(tmp_path)
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]
    assert lines[-1] == (
        "this run was finished already, at step 12 of 12; "
        "a larger --config.train.num_steps goes on with it"
    )


class Scores:
    """An evaluator whose results are given by step; fails once where told."""

    def __init__(self, values, fail_at=None):
        self.values, self.fail_at, self.seen = values, fail_at, []

    def __call__(self, step, state):
        assert step == int(state.step)
        if step == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(step)
        return {"fid": self.values[step], "w": float(state.ema["w"][0])}


EVALUATED = {"evaluate_every_steps": 5, "best_metric": "fid"}
SCORES = {5: 3.0, 10: 1.0, 12: 2.0}


def best(workdir):
    """(step, value) of the best checkpoint."""
    meta = read_meta(find_checkpoint(str(workdir / "best")))
    return meta["step"], meta["best"]["value"]


def test_evaluation_changes_no_bit_and_keeps_the_best(whole, tmp_path):
    state, lines = run(tmp_path, evaluator=Scores(SCORES), **EVALUATED)
    assert_same(state, whole[0])
    written = records(tmp_path)
    evaluated = [r for r in written if "eval/fid" in r]
    assert [r for r in written if r not in evaluated] == whole[1]
    assert [(r["step"], r["eval/fid"]) for r in evaluated] == list(SCORES.items())
    assert best(tmp_path) == (10, 1.0)
    assert item_names(find_checkpoint(str(tmp_path / "best"))) == {"params", "ema", "meta"}
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["10"]
    assert sum("the best fid so far" in line for line in lines) == 2


def test_held_out_and_evaluation_are_made_up_for_apart(whole, tmp_path):
    """Both are due at 6 and 12; the evaluation of 6 fails, whose held-out record is there."""
    losses = {3: 3.0, 6: 1.0, 9: 2.0, 12: 1.5}
    held_out, changes = Scores(losses), {"evaluate_every_steps": 6, "validate_every_steps": 3}
    changes |= {"best_metric": "valid/fid", "held_out": held_out}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, evaluator=Scores({}, fail_at=6), **changes)
    evaluator = Scores({6: 5.0, 12: 4.0})
    state, _ = run(tmp_path, evaluator=evaluator, **changes)
    assert_same(state, whole[0])
    assert (held_out.seen, evaluator.seen) == ([3, 6, 9, 12], [6, 12])
    written = records(tmp_path)
    for name, values in {"valid/fid": losses, "eval/fid": evaluator.values}.items():
        assert [(r["step"], r[name]) for r in written if name in r] == list(values.items())
    assert best(tmp_path) == (6, 1.0)


@pytest.mark.parametrize("ended_by", [{"fail_at": 8}, {"fail_at": 11}, {"terminate_at": 10}])
def test_evaluation_after_a_restart(tmp_path, ended_by):
    with pytest.raises((KeyboardInterrupt, Preempted)):
        run(tmp_path, evaluator=Scores(SCORES), **ended_by, **EVALUATED)
    run(tmp_path, evaluator=Scores(SCORES), **EVALUATED)
    assert [r["step"] for r in records(tmp_path)] == [4, 5, 8, 10, 12, 12]
    assert best(tmp_path) == (10, 1.0)


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, evaluator=Scores(SCORES, fail_at=12), **EVALUATED)
    again = Scores(SCORES)
    run(tmp_path, evaluator=again, **EVALUATED)
    assert again.seen == [12]
    run(tmp_path, evaluator=again, **EVALUATED)
    assert again.seen == [12], "a finished run was evaluated again"
    assert [r["step"] for r in records(tmp_path)] == [4, 5, 8, 10, 12, 12]


def test_best_is_never_a_nan_and_survives_a_rollback(tmp_path):
    scores = Scores({5: np.nan, 10: 1.0, 12: 2.0})
    run(tmp_path, evaluator=scores, **EVALUATED)
    assert best(tmp_path) == (10, 1.0)
    kept = BestCheckpoint(tmp_path, "fid")
    assert not kept.offer(4, 1.5, {"params": {"w": jnp.ones(1)}}, {"format_version": 1})
    assert kept.offer(4, 0.5, {"params": {"w": jnp.ones(1)}}, {"format_version": 1})
    kept.close()
    assert best(tmp_path) == (4, 0.5)
    assert BestCheckpoint(tmp_path, "fid").value == 0.5
    assert BestCheckpoint(tmp_path, "other").value == np.inf


@pytest.mark.parametrize("metric", ["inception_score", "recognised_share", "coverage_dinov2"])
def test_of_a_number_that_should_be_high_the_highest_is_kept(tmp_path, metric):
    kept, weights = BestCheckpoint(tmp_path, metric), {"params": {"w": jnp.ones(1)}}
    values = [1.0, 2.0, 1.5, np.nan]
    taken = [kept.offer(step, x, weights, {"format_version": 1}) for step, x in enumerate(values)]
    kept.close()
    assert taken == [True, True, False, False]
    assert best(tmp_path) == (1, 2.0) and BestCheckpoint(tmp_path, metric).value == 2.0


def test_unknown_best_metric_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"best_metric is 'fdi', but the evaluation gives fid, w"):
        run(tmp_path, evaluator=Scores(SCORES), evaluate_every_steps=5, best_metric="fdi")
    with pytest.raises(ValueError, match=r"best_metric is 'fid', but nothing is evaluated"):
        dataclasses.replace(CONFIG, best_metric="fid")


@pytest.mark.parametrize("step", [1, 6, 12])
def test_sigterm_saves_that_step_and_a_restart_goes_on(whole, tmp_path, step):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, check=lambda e: (e.code, e.step) == (EXIT_STATUS, step)):
        run(tmp_path, terminate_at=step)
    assert signal.getsignal(signal.SIGTERM) == handler
    state, lines = run(tmp_path)
    assert lines[0].startswith(f"resumed from step {step} ")
    assert_same(state, whole[0])
    assert records(tmp_path) == whole[1]


class Unreadable(Counter):
    """Raises an error for the batch after so many steps."""

    def __init__(self, step, error, nan_at=()):
        super().__init__(nan_at)
        self._step, self._error = step, error

    def __next__(self):
        if self.next == self._step:
            raise self._error
        return super().__next__()


DAMAGED = UnreadableImageError("x.png cannot be decoded")


@pytest.mark.parametrize(("step", "saved"), [(3, 3), (5, 5)])
def test_a_batch_that_cannot_be_read_takes_no_step_with_it(whole, tmp_path, step, saved):
    lines = []
    with pytest.raises(UnreadableImageError, match="cannot be decoded"):
        run(tmp_path, iterator=Unreadable(step, DAMAGED), lines=lines)
    assert TrainingCheckpoints(tmp_path, keep=2).latest_step() == saved
    told = [line for line in lines if line.startswith("saved")]
    assert told == (["saved step 5, the last before an error"] if step == 5 else [])
    assert_same(run(tmp_path)[0], whole[0])
    assert records(tmp_path) == whole[1]


@pytest.mark.parametrize(
    ("error", "nan_at", "raised"),
    [
        (DAMAGED, (7,), NonFiniteError),  # steps that nobody has read are judged first
        (StorageError("w: Input/output error (EIO)"), (), StorageError),  # which could not save
    ],
)
def test_only_what_can_be_saved_and_is_finite_is(tmp_path, error, nan_at, raised):
    with pytest.raises(raised):
        run(tmp_path, iterator=Unreadable(8, error, nan_at))
    assert TrainingCheckpoints(tmp_path, keep=2).latest_step() == 6


def test_an_evaluation_that_fails_takes_no_step_with_it(tmp_path):
    with pytest.raises(ValueError, match="best_metric"):
        run(tmp_path, evaluator=Scores(SCORES), evaluate_every_steps=5, best_metric="fdi")
    assert TrainingCheckpoints(tmp_path, keep=2).latest_step() == 5


def test_what_is_saved_is_what_was_given(tmp_path):
    """JSON is written in the background, while the loop changes its lists."""
    checkpoints = TrainingCheckpoints(tmp_path, keep=1)
    for step in range(5):
        value = {"window": []}
        checkpoints.save(step, {"params": {"w": jnp.ones(1)}}, {"loop": value})
        value["window"].append(step)
        assert checkpoints.restore({}, ("loop",)).json["loop"] == {"window": []}
    checkpoints.close()


def test_the_next_batches_are_sent_while_a_step_runs(tmp_path, monkeypatch):
    """Batches k + 1 and k + 2 are on their way to the device before the host waits for step k."""
    events = []

    class Watched(Counter):
        def __next__(self):
            events.append("batch")
            return super().__next__()

    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: events.append("wait") or real(x))
    run(tmp_path, iterator=Watched(), log_every_steps=12, checkpoint_every_steps=12)
    assert events == ["batch"] * 3 + ["wait", "batch"] * 9 + ["wait"] * 3


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
