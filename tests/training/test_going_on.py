"""A run that goes on with other settings: its data, its history, and what it may not change."""

import numpy as np
import pytest

from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.pipeline import LatentBatches, make_pipeline
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training import going_on, run
from tests import tiny

pytestmark = pytest.mark.xdist_group(__name__)  # one worker makes what its tests share

SESSIONS = (
    {"train__num_steps": 3, "train__batch_size": 8},
    {"train__num_steps": 5, "train__batch_size": 16, "optimizer__learning_rate": 0.01},
    {"train__num_steps": 6, "train__batch_size": 16, "optimizer__learning_rate": 0.01},
)
HISTORY = [
    (3, "optimizer.learning_rate", 0.002, 0.01),
    (3, "train.num_steps", 3, 5),
    (3, "train.batch_size", 8, 16),
    (5, "train.num_steps", 5, 6),
]


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.write_latents(tmp_path_factory.mktemp("latents"), count=21)


def config(latents, **changes):
    settings = {"model__depth": 1, "train__checkpoint_every_steps": 100, "data__path": str(latents)}
    settings |= {"optimizer__learning_rate": 0.002, "data__flip": True}
    return tiny.config("digits_dit", **settings | changes)


@pytest.fixture(scope="module")
def changed(latents, tmp_path_factory):
    """(workdir, batches that were trained on, what each session said)."""
    workdir, batches, said = tmp_path_factory.mktemp("changed"), [], []
    with pytest.MonkeyPatch.context() as patch:
        to_device = run.global_batch
        patch.setattr(run, "global_batch", lambda b, mesh: batches.append(b) or to_device(b, mesh))

        for changes in SESSIONS:
            lines = []
            patch.setattr(going_on, "print_once", lambda *more, lines=lines: lines.extend(more))
            run.train(config(latents, **changes), str(workdir))
            said.append(lines)
    return workdir, batches, said


def test_no_record_is_left_out_or_comes_again(changed, latents):
    """The records in order are those of batches of one, more than three epochs of 21."""
    _, batches, _ = changed
    assert [len(b["labels"]) for b in batches] == [8] * 3 + [16] * 3
    source = LatentBatches(LatentShards(latents))
    one = iter(
        make_pipeline(
            source, global_batch_size=1, seed=0, flip=True, num_threads=1, prefetch_batches=1
        )
    )
    want = [next(one) for _ in range(3 * 8 + 3 * 16)]
    for name in ("latents", "labels"):
        got = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(got, np.concatenate([batch[name] for batch in want]))


def test_the_history_is_in_the_checkpoint_and_said(changed):
    workdir, _, said = changed
    history = read_meta(find_checkpoint(str(workdir)))["history"]
    assert sorted(tuple(change.values()) for change in history) == sorted(HISTORY)
    assert said[0] == []
    assert "since step 3: train.batch_size 8 -> 16" in said[1]
    assert [len(lines) for lines in said] == [0, 3, 1]
    text = load_functional(str(workdir), make_mesh()).description()
    assert "\nsince step 5: train.num_steps 5 -> 6" in text
    assert "\nsince step 3: optimizer.learning_rate 0.002 -> 0.01" in text


def test_going_on_without_a_change_adds_nothing(changed, latents, capsys):
    workdir, _, _ = changed
    before = read_meta(find_checkpoint(str(workdir)))
    run.train(config(latents, **SESSIONS[-1]), str(workdir))
    assert "since step" not in capsys.readouterr().out
    assert read_meta(find_checkpoint(str(workdir))) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "another seed: found 0, now 1"),
        ({"model__depth": 2}, "another architecture: found depth 1, now 2"),
        ({"flow__path": "gvp"}, "another flow: found path linear, now gvp"),
        ({"data__latent_multiplier": 2.0}, "another latents: found multiplier 1.0, now 2.0"),
    ],
)
def test_what_changes_the_meaning_is_refused(changed, latents, changes, message):
    workdir, _, _ = changed
    with pytest.raises(ValueError, match=rf"{message}; .*config\.train\.init=.*/checkpoints/6"):
        run.train(config(latents, **SESSIONS[-1] | changes), str(workdir))
