"""Trackers of others, played by modules that record what they are asked."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest

from lightningdit_jax.training.run import train
from lightningdit_jax.training.writer import MetricWriter
from tests import tiny

CONFIG = {"seed": 3, "train": {"batch_size": 8}}
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


@pytest.fixture
def asked(monkeypatch):
    """Calls of both trackers, in their order."""
    calls = []

    def told(name, result=None):
        def call(*arguments, **named):
            calls.append((name, *arguments, named) if named else (name, *arguments))
            return result

        return call

    def module(name, **members):
        fake = types.ModuleType(name)
        fake.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
        return fake

    names = ("log", "finish", "define_metric")
    run = types.SimpleNamespace(id="w1", **{n: told(f"wandb.{n}") for n in names})
    module(
        "wandb",
        init=told("wandb.init", run),
        Image=lambda image: ("image", image.tobytes()),
        Settings=lambda **settings: settings,
    )
    names = ("set_experiment", "log_dict", "log_metrics", "log_image", "end_run")
    begun = types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))
    module(
        "mlflow",
        start_run=told("mlflow.start_run", begun),
        **{n: told(f"mlflow.{n}") for n in names},
    )
    for variable in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return calls


def write(workdir, name, step=0):
    log = MetricWriter(str(workdir), start_step=step, writers=(name,), config=CONFIG)
    log.write(step + 1, {"loss": 0.5})
    log.picture(step + 1, "picture", IMAGE)
    log.close()


def test_wandb_is_told_and_goes_on_with_its_run(asked, tmp_path):
    workdir = tmp_path / "mine"
    write(workdir, "wandb")
    init = {
        "project": "lightningdit_jax",
        "name": "mine",
        "dir": str(workdir),
        "id": None,
        "resume": "allow",
        "config": CONFIG,
        "settings": {"console": "off"},
    }
    told = [
        ("wandb.define_metric", "step"),
        ("wandb.define_metric", "*", {"step_metric": "step"}),
        ("wandb.log", {"step": 1, "loss": 0.5}),
        ("wandb.log", {"step": 1, "picture": ("image", IMAGE.tobytes())}),
        ("wandb.finish",),
    ]
    assert asked == [("wandb.init", init), *told]
    asked.clear()
    write(workdir, "wandb", step=1)
    assert asked[0] == ("wandb.init", init | {"id": "w1"})


def test_mlflow_is_told_and_goes_on_with_its_run(asked, tmp_path):
    workdir = tmp_path / "mine"
    write(workdir, "mlflow")
    told = asked[-1:]
    assert asked[:4] == [
        ("mlflow.set_experiment", "lightningdit_jax"),
        ("mlflow.start_run", {"run_name": "mine"}),
        ("mlflow.log_dict", CONFIG, "config.json"),
        ("mlflow.log_metrics", {"loss": 0.5}, {"step": 1}),
    ]
    name, image, named = asked[4]
    assert (name, named) == ("mlflow.log_image", {"key": "picture", "step": 1})
    np.testing.assert_array_equal(image, IMAGE)
    assert told == [("mlflow.end_run",)]
    asked.clear()
    write(workdir, "mlflow", step=1)
    assert asked[0] == ("mlflow.start_run", {"run_id": "m1"})


@pytest.mark.parametrize("broken", ["start_run", "log_metrics", "log_image", "end_run"])
def test_a_tracker_that_fails_ends_no_run(asked, broken, tmp_path, monkeypatch, caplog):
    def refuse(*arguments, **named):
        raise ConnectionError("503\nService Unavailable")

    monkeypatch.setattr(sys.modules["mlflow"], broken, refuse)
    write(tmp_path, "mlflow")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["mlflow failed, and the run goes on without it: 503 Service Unavailable"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", r"has 'wandb', but wandb is not installed: pip install -e '\.\[wandb"),
        ("tensorbord", "name in config.train.writers 'tensorbord'; did you mean 'tensorboard'"),
    ],
)
def test_a_writer_that_is_not_there_is_said_before_data_is_opened(
    name, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    config = tiny.config("digits_dit", data__path=str(tmp_path / "nothing"), train__writers=(name,))
    with pytest.raises(ValueError, match=message):
        train(config, str(tmp_path / "w"))
    assert not any(tmp_path.iterdir())
