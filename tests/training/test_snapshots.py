"""Power-function averages of a run, what is kept of them, and averages made of that afterwards."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from lightningdit_jax.assembly.synthesis import plan_synthesis, read_synthesis
from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.average_profiles import exponent_of
from lightningdit_jax.checkpoint import find_checkpoint, item_names, read_arrays
from lightningdit_jax.checkpoint_choice import finalized_steps
from lightningdit_jax.checkpoint_reading import array_metadata
from lightningdit_jax.training.going_on import inherited
from tests import tiny
from tests.training.loop_cases import CONFIG, assert_same, run

SIGMAS = (0.05, 0.1)
KEPT = {
    "ema_decay": 0.0,
    "ema_sigmas": SIGMAS,
    "snapshot_every_steps": 4,
    "num_steps": 26,
    "checkpoint_every_steps": 13,
}
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ABSTRACT = {"w": jax.ShapeDtypeStruct((3,), np.float32, sharding=DEVICE)}


def recorded(workdir, seen, **changes):
    """A run, and the weights after each of its steps in `seen`, the first ones in front."""
    steps = {0: np.ones(3)}

    def evaluator(step, state):
        steps[step] = np.asarray(state.params["w"], np.float64)
        return {"x": 0.0}

    result = run(workdir, evaluator=evaluator, evaluate_every_steps=1, **changes)
    seen[:] = [steps[step] for step in sorted(steps)]
    return result


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workdir, its last state, and the weights after each step."""
    workdir, seen = tmp_path_factory.mktemp("whole"), []
    state, _ = recorded(workdir, seen, **KEPT)
    return workdir, state, seen


def by_definition(weights, sigma):
    """In float64, step by step; equation 127."""
    average = weights[0]
    for step, now in enumerate(weights[1:], 1):
        decay = (1 - 1 / step) ** (exponent_of(sigma) + 1)
        average = decay * average + (1 - decay) * now
    return average


def snapshots(workdir):
    """What every snapshot holds, by step."""
    return {
        int(path.name): {
            item: read_arrays(path, item, as_stored(path, item))
            for item in item_names(path) - {"meta"}
        }
        for path in finalized_steps(find_checkpoint(str(workdir)).parents[1] / "snapshots")
    }


def as_stored(path, item):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=DEVICE),
        array_metadata(path, item),
    )


def test_averages_are_by_definition_and_change_nothing_else(whole, tmp_path):
    workdir, state, weights = whole
    assert state.averages.keys() == {"ema_sigma_0.05", "ema_sigma_0.1"}
    for sigma in SIGMAS:
        wanted = by_definition(weights, sigma)
        np.testing.assert_allclose(state.averages[f"ema_sigma_{sigma}"]["w"], wanted, rtol=2e-6)
    plain, _ = run(tmp_path, num_steps=26, ema_decay=0.0, checkpoint_every_steps=26)
    assert_same((plain.params, plain.opt_state), (state.params, state.opt_state))
    kept = snapshots(workdir)
    assert [*kept] == [*range(4, 25, 4), 26]
    for step, items in kept.items():
        for sigma in SIGMAS:
            [array] = items[f"ema_sigma_{sigma}"].values()
            wanted = by_definition(weights[: step + 1], sigma)
            assert array.dtype == np.float16
            np.testing.assert_allclose(array, wanted, rtol=2**-11, atol=6e-8)


@pytest.mark.parametrize("sigma", [0.04, 0.1, 0.15])
def test_an_average_of_another_width_is_made_afterwards(whole, sigma):
    workdir, _, weights = whole
    checkpoint = find_checkpoint(str(workdir))
    synthesis, wanted = plan_synthesis(checkpoint, sigma), by_definition(weights, sigma)
    average = read_synthesis(checkpoint, sigma, ABSTRACT)["w"]
    assert average.dtype == np.float32
    moved = np.abs(np.diff(weights, axis=0)).sum()
    assert np.abs(average - wanted).max() < 0.1 * synthesis.error * moved + 2e-4
    assert (len(synthesis.parts) == 1) == (sigma == 0.1)


def test_one_of_an_earlier_step_knows_none_of_later_ones(whole):
    workdir, _, weights = whole
    synthesis = plan_synthesis(workdir / "snapshots" / "20", 0.07)
    assert max(int(path.name) for path, _, _ in synthesis.parts) == 20
    wanted = by_definition(weights[:21], 0.07)
    np.testing.assert_allclose(synthesis.read(ABSTRACT)["w"], wanted, atol=2e-3)


def test_constant_decays_of_kept_checkpoints_will_do(whole, tmp_path):
    """Of a run that never heard of power functions."""
    kept = {"checkpoint_every_steps": 5, "keep_checkpoints": 6, "ema_decays": (0.7,)}
    run(tmp_path, num_steps=26, **kept)
    synthesis = plan_synthesis(find_checkpoint(str(tmp_path)), 0.1)
    wanted = by_definition(whole[2], 0.1)
    np.testing.assert_allclose(synthesis.read(ABSTRACT)["w"], wanted, atol=2e-3)


def test_a_kill_changes_no_bit(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fail_at=22, **KEPT)
    assert 20 in snapshots(tmp_path)  # after the checkpoint, and taken again
    state, _ = run(tmp_path, **KEPT)
    assert_same(state, whole[1])
    assert_same(snapshots(tmp_path), snapshots(whole[0]))


def test_steps_that_are_taken_again_with_other_data_have_their_own(tmp_path):
    seen, changes = [], {**KEPT, "nonfinite": "rollback", "num_steps": 9}
    recorded(tmp_path, seen, nan_at=(6,), **changes)
    assert [*snapshots(tmp_path)] == [4, 8, 9]
    for step, items in snapshots(tmp_path).items():
        wanted = by_definition(seen[: step + 1], 0.1)
        np.testing.assert_allclose(items["ema_sigma_0.1"]["w"], wanted, rtol=2**-11)


def test_a_step_that_is_skipped_counts_with_the_weights_it_leaves(tmp_path):
    weights, changes = [], {"nonfinite": "skip", "num_steps": 6, "checkpoint_every_steps": 6}
    state, _ = recorded(tmp_path, weights, nan_at=(4,), ema_sigmas=SIGMAS, **changes)
    assert_same(weights[5], weights[4])
    wanted = by_definition(weights, 0.1)
    np.testing.assert_allclose(state.averages["ema_sigma_0.1"]["w"], wanted, rtol=1e-6)


def test_averages_that_began_late_are_taken_for_that(whole, tmp_path):
    run(tmp_path, num_steps=6, ema_decay=0.0, checkpoint_every_steps=6)
    newest = find_checkpoint(str(tmp_path))
    config = tiny.config("digits_dit", train__ema_sigmas=SIGMAS).to_dict()
    since = inherited(newest, {"config": config, "batch_size": 1})["averages_since"]
    assert since == {"ema_sigma_0.05": 6, "ema_sigma_0.1": 6}
    _, lines = run(tmp_path, meta={"averages_since": since}, **KEPT)
    assert sum("start as a copy of its weights" in line for line in lines) == 2
    checkpoint = find_checkpoint(str(tmp_path))
    average = read_synthesis(checkpoint, 0.15, ABSTRACT)["w"]
    wanted = by_definition(whole[2], 0.15)
    np.testing.assert_allclose(average, wanted, atol=2e-3)
    _, lines = run(tmp_path, num_steps=27, ema_decay=0.0)
    assert sum("ema_sigmas is without its width: the averaged weights" in x for x in lines) == 2


def test_what_cannot_be_made_is_said_in_a_line(whole, tmp_path):
    workdir, _, _ = whole
    with pytest.raises(ValueError, match=r"of sigma 0\.25 for .*/26 cannot be made of the 16 that"):
        plan_synthesis(find_checkpoint(str(workdir)), 0.25)
    run(tmp_path, ema_decay=0.0, num_steps=1)
    with pytest.raises(ValueError, match=r"hold no averages to make one of sigma 0\.1 of; they"):
        plan_synthesis(find_checkpoint(str(tmp_path)), 0.1)
    shutil.copytree(workdir, tmp_path / "mixed")
    mixed = tmp_path / "mixed" / "snapshots" / "3"
    run(tmp_path / "other", meta={"seed": 7}, **{**KEPT, "num_steps": 3})
    (tmp_path / "other" / "snapshots" / "3").rename(mixed)
    with pytest.raises(ValueError, match=r"snapshots/3 is of another run .* they differ in seed"):
        plan_synthesis(find_checkpoint(str(tmp_path / "mixed")), 0.07)
    (mixed / "meta" / "metadata").write_text("half")
    assert len(plan_synthesis(find_checkpoint(str(tmp_path / "mixed")), 0.07).parts) == 16


def test_verify_looks_at_them(whole):
    lines = []
    config = tiny.config("digits_dit", data__path="")
    assert verify(config, str(whole[0]), lines.append) == 0
    assert sum("/snapshots/" in line and ": whole (step" in line for line in lines) == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ema_sigmas": (0.1, 0.1)}, r"ema_sigmas is .* expected widths that differ"),
        ({"snapshot_every_steps": 5}, r"no averages to keep; set config\.train\.ema_sigmas"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(CONFIG, **changes)
