"""What `train` refuses before it begins."""

import copy
import dataclasses
import pathlib
import shutil
import types

import numpy as np
import pytest

from lightningdit_jax import checkpoint
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training import run
from lightningdit_jax.training.job import abstract_generator_job, make_job
from lightningdit_jax.training.run import train
from tests import tiny


def test_evaluating_without_an_evaluator_is_refused(tmp_path):
    config = tiny.config("digits_vavae", train__evaluate_every_steps=10)
    with pytest.raises(ValueError, match=r"is 10, but there is nothing that evaluates a vavae"):
        train(config, str(tmp_path))
    assert not any(tmp_path.iterdir())
    config = tiny.config("digits_vavae", train__picture_every_steps=10)
    with pytest.raises(ValueError, match=r"picture_every_steps is 10, but train\(\) was given"):
        train(config, str(tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__name": "adam"}, r"value of config\.optimizer\.name 'adam'; did you mean"),
        ({"optimizer__schedule": "cos"}, r"value of config\.optimizer\.schedule 'cos'"),
    ],
)
def test_an_optimizer_that_is_not_there_is_said_before_data_is_opened(tmp_path, changes, message):
    config = tiny.config("digits_dit", data__path=str(tmp_path / "nothing"), **changes)
    with pytest.raises(ValueError, match=message):
        train(config, str(tmp_path / "w"))
    assert not any(tmp_path.iterdir())


def tree(folder):
    return {str(p): p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("harmed", "seed", "message"),
    [
        ((6,), 1, r"w/checkpoints holds a run with another seed: found 0, now 1;"),
        ((), 0, r"w/checkpoints/6 holds an optimizer's state of another layout"),
        ((3, 6), 0, r"w/checkpoints holds no complete checkpoint, but damaged ones: .*/6 \(it is"),
        (None, 0, r"w/checkpoints is a file; expected a folder"),
    ],
)
def test_a_workdir_that_is_refused_is_left_as_it_is(tmp_path, harmed, seed, message):
    latents, workdir = str(tiny.write_latents(tmp_path / "latents")), tmp_path / "w"
    config = tiny.config("digits_dit", data__path=latents, seed=seed)
    if harmed is None:
        workdir.mkdir()
        (workdir / "checkpoints").write_text("")
    else:
        mesh = make_mesh(**dataclasses.asdict(config.mesh))
        meta = run.run_meta(config, make_job(config, mesh)) | {"seed": 0}
        for step in (3, 6):
            path = workdir / "checkpoints" / str(step)
            arrays = {name: {"w": np.ones(2)} for name in ("params", "opt_state")}
            step_meta = {"meta": meta | {"step": step}}
            checkpoint.save_checkpoint(str(path), arrays, step_meta)
            if step in harmed:
                shutil.rmtree(path)
                path.mkdir()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(config, str(workdir))
    assert tree(tmp_path) == before


@pytest.fixture
def resumed(monkeypatch):
    """resumed(found, now): the check of a workdir whose newest checkpoint says `found`."""

    def check(found, now):
        monkeypatch.setattr(checkpoint, "read_meta", lambda path: copy.deepcopy(found))
        run._check_same_run(pathlib.Path("run/checkpoints/40"), now)

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


def generator_meta(**changes):
    config = tiny.config("digits_dit", **changes)
    job = abstract_generator_job(config, make_mesh(**dataclasses.asdict(config.mesh)))
    description = job.description | {"latents": LatentScaling().to_meta()}
    return run.run_meta(config, types.SimpleNamespace(source=range(12), description=description))


def test_a_run_that_does_not_name_its_flow_has_the_releases(resumed, capsys):
    now, other = generator_meta(), generator_meta(flow__path="gvp")
    resumed({key: value for key, value in now.items() if key != "flow"}, now)
    resumed({**now, "flow": {"path": "linear"}}, now)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"another flow: found path linear, now gvp;"):
        resumed({key: value for key, value in other.items() if key != "flow"}, other)


@pytest.mark.parametrize("unsaid", [["examples"], ["latents", "seed", "examples"]])
def test_what_an_older_run_does_not_say_is_named(resumed, unsaid, capsys):
    now = generator_meta()
    older = {key: value for key, value in now.items() if key not in unsaid}
    resumed(older, now)
    line = f"not compared with step 40, which does not say them: {', '.join(unsaid)}\n"
    assert capsys.readouterr().out == line
    with pytest.raises(ValueError, match="another architecture: found depth 2, now 3"):
        resumed(older, generator_meta(model__depth=3))


def test_images_taken_away_from_a_tokenizer_are_said(resumed, capsys):
    """As its own error on a damaged image advises; a generator's latents are refused."""
    now = tokenizer_meta()
    resumed({**now, "examples": {"count": 13}}, now)
    assert "other images than at step 40: count 13, now 12" in capsys.readouterr().out
    resumed(now, now)
    assert capsys.readouterr().out == ""


def test_a_run_keeps_what_its_config_says(tmp_path):
    latents = str(tiny.write_latents(tmp_path / "latents"))
    keeps = {"train__keep_checkpoints": 1, "train__keep_every_steps": 2}
    steps = {"train__num_steps": 5, "train__checkpoint_every_steps": 1}
    config = tiny.config("digits_dit", model__depth=1, data__path=latents, **keeps, **steps)
    train(config, str(tmp_path / "w"))
    assert sorted(p.name for p in (tmp_path / "w" / "checkpoints").iterdir()) == ["2", "4", "5"]
