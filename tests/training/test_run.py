"""What `train` refuses before it begins."""

import copy
import dataclasses
import pathlib
import types

import pytest

from lightningdit_jax import checkpoint
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.training import run
from lightningdit_jax.training.run import train
from tests import tiny


def test_evaluating_without_an_evaluator_is_refused(tmp_path):
    config = tiny.config("digits_vavae", train__evaluate_every_steps=10)
    with pytest.raises(ValueError, match=r"is 10, but there is nothing that evaluates a vavae"):
        train(config, str(tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.fixture
def resumed(monkeypatch):
    """resumed(found, now): the check of a workdir whose newest checkpoint says `found`."""

    def check(found, now):
        monkeypatch.setattr(checkpoint, "read_meta", lambda path: copy.deepcopy(found))
        checkpoints = types.SimpleNamespace(
            latest_step=lambda: 40, directory=pathlib.Path("run/checkpoints")
        )
        run._check_workdir(checkpoints, now)

    return check


def tokenizer_meta():
    job = types.SimpleNamespace(
        source=range(12),
        description={
            "architecture": dataclasses.asdict(tokenizer_config(tiny.config("digits_vavae"))),
            "companions": {},
        },
    )
    return run.run_meta(tiny.config("digits_vavae"), job)


def test_fields_younger_than_the_run_have_their_defaults(resumed):
    now = tokenizer_meta()
    found = copy.deepcopy(now)
    del found["architecture"]["num_groups"], found["architecture"]["activation"]
    resumed(found, now)
    now["architecture"]["num_groups"] = 16
    with pytest.raises(ValueError, match=r"another architecture: found num_groups 32, now 16;"):
        resumed(found, now)


def test_images_taken_away_from_a_tokenizer_are_said(resumed, capsys):
    """As its own error on a damaged image advises; a generator's latents are refused."""
    now = tokenizer_meta()
    resumed({**now, "examples": {"count": 13}}, now)
    assert "other images than at step 40: count 13, now 12" in capsys.readouterr().out
    resumed(now, now)
    assert capsys.readouterr().out == ""
