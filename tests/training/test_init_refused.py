"""Weights that a run cannot start from: one line, before data is opened or anything is written."""

import dataclasses
import json
import shutil
import types

import jax
import pytest

from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.training.init.opening import compare_data, open_init
from lightningdit_jax.training.init.takeover import plan_takeover
from lightningdit_jax.training.job import open_source
from lightningdit_jax.training.run import train
from tests import tiny
from tests.training.init_cases import config, job_of, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("refused") / "source", config())[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(tiny.write_latents(tmp_path_factory.mktemp("refused") / "latents"))


def refusal(tmp_path, error=ValueError, **changes):
    """The line that a new run ends with; it leaves nothing behind."""
    with pytest.raises(error) as raised:
        train(config(**changes), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_sources_that_are_not_there(tmp_path, source):
    """Before data is opened: there is none."""
    (tmp_path / "empty").mkdir()
    found = refusal(tmp_path, FileNotFoundError, train__init=str(tmp_path / "nothing"))
    assert found.startswith("config.train.init: no checkpoint at") and "no such directory" in found
    found = refusal(tmp_path, FileNotFoundError, train__init=str(tmp_path / "empty"))
    assert "expected a folder with 'meta' and 'params', or a workdir" in found
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    (damaged / "params" / "_METADATA").write_text("{")
    shutil.rmtree(damaged / "ema")
    meta = json.loads((damaged / "meta" / "metadata").read_text())
    meta["items"].remove("ema")
    del meta["digests"]
    shutil.rmtree(damaged / "digests")
    (damaged / "meta" / "metadata").write_text(json.dumps(meta))
    found = refusal(tmp_path, train__init=str(damaged))
    assert "item 'params' cannot be read" in found
    shutil.rmtree(damaged / "params")
    found = refusal(tmp_path, FileNotFoundError, train__init=str(damaged))
    assert "is no complete checkpoint: its item 'params' is missing" in found


def test_an_array_that_is_cut_short(tmp_path, data):
    """Found when it is read, before anything is written all the same."""
    path, _ = write_source(tmp_path / "s", config(), latents=None)
    [array] = (tmp_path / "s" / "ema" / "y_embedder.embedding").glob("0*")
    array.write_bytes(array.read_bytes()[:10])
    found = refusal(tmp_path, train__init=path, data__path=data)
    assert f"{path} is damaged: item 'ema' cannot be read (" in found and str(array) in found


def test_a_source_of_another_kind(tmp_path, source):
    with pytest.raises(
        ValueError, match=r"holds a lightningdit; expected a vavae, or a run that trained both"
    ):
        train(tiny.config("digits_vavae", train__init=source), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train__init_labels": "1,2"},
            "config.train.init_labels is '1,2', but config.train.init is",
        ),
        ({"train__init_exclude": ("*",)}, "config.train.init_exclude is ('*',), but config.train."),
        (
            {"data__stats": "checkpoint"},
            "config.data.stats is 'checkpoint', but config.train.init is",
        ),
    ],
)
def test_keys_of_a_source_without_one(tmp_path, changes, message):
    assert message in refusal(tmp_path, **changes)


MISFITS = [
    (
        {"model__depth": 3},
        "does not fit config.model (depth 2 there, 3 here): blocks/adaLN_modulation/bias "
        "([2, 6, 16] in the source, [3, 6, 16] here), blocks/adaLN_modulation/kernel",
    ),
    (
        {"model__in_channels": 4},
        "x_embedder/kernel (8 channels in the source, 4 here; channels can be added, not taken",
    ),
    ({"model__use_rope": False}, "(use_rope True there, False here): use_rope (True in the source"),
    ({"model__use_rmsnorm": False}, "blocks/norm1/scale (it has no place here)"),
    ({"model__use_swiglu": False}, "blocks/mlp/fc1/kernel (the source has none)"),
    (
        {"train__init_exclude": ("block/*",)},
        "'block/*', which no parameter's name matches; near it",
    ),
    (
        {"train__init_labels": "0,1"},
        "init_labels has 2 entries, but config.model.num_classes is 10",
    ),
    (
        {"model__num_classes": 1, "train__init_labels": "10"},
        "holds class 10, but the source has 10",
    ),
    (
        {"model__num_classes": 1, "train__init_labels": "k"},
        "config.train.init_labels: unknown class",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISFITS)
def test_what_does_not_fit(source, changes, message):
    wanted = config(train__init=source, **changes)
    init, _ = open_init(wanted, "nothing")
    with pytest.raises(ValueError) as raised:
        plan_takeover(wanted, init, job_of(wanted)[2])
    text = str(raised.value)
    assert message in text and "\n" not in text


def test_every_misfit_is_listed_and_what_is_excluded_is_none(source):
    """Of a narrower model all arrays but one: the output's bias is of channels alone."""
    narrow = config(train__init=source, model__hidden_size=8, model__use_qknorm=True)
    init, _ = open_init(narrow, "nothing")
    shapes = job_of(narrow)[2]
    with pytest.raises(ValueError) as raised:
        plan_takeover(narrow, init, shapes)
    assert str(raised.value).count(" in the source, [") == len(jax.tree.leaves(init.shapes)) - 1
    assert "final_layer/linear/bias" not in str(raised.value)
    excluded = narrow.changed(train={"init_exclude": ("*",)}, flow={"path": "gvp"})
    takeover = plan_takeover(excluded, init, shapes)
    assert {leaf.fate for leaf in takeover.leaves} == {"fresh"}
    assert takeover.notes == ("trained for another flow: path linear in the source, gvp here",)


def test_a_null_row_that_the_source_does_not_have(tmp_path):
    path, _ = write_source(tmp_path / "s", config(model__class_dropout_prob=0.0), names=())
    for labels, message in (
        ("null", "holds 'null', but the source has no null class (its class_dropout_prob is 0)"),
        ("cat", "is 'cat'; expected numbers of the source's classes, 'null' and 'fresh' (the gen"),
    ):
        wanted = config(train__init=path, model__num_classes=1, train__init_labels=labels)
        with pytest.raises(ValueError) as raised:
            plan_takeover(wanted, open_init(wanted, "nothing")[0], job_of(wanted)[2])
        assert message in str(raised.value)


def test_latents_that_are_scaled_otherwise(tmp_path, source, data):
    changes = {"train__init": source, "data__path": data}
    found = refusal(tmp_path, **changes)
    assert "mean None in the source and [" in found and "set config.data.stats to" in found
    found = refusal(tmp_path, data__latent_norm=False, data__latent_multiplier=0.5, **changes)
    assert "multiplier 1.0 in the source and 0.5 in the data" in found


def test_what_data_stats_chooses(tmp_path, source, data):
    changes = {"train__init": source, "data__path": data}
    for stats, said in (("checkpoint", "latents are scaled as those of"), ("data", "otherwise")):
        wanted = config(data__stats=stats, **changes)
        init, scaling = open_init(wanted, str(tmp_path))
        batches = open_source(wanted, scaling)
        assert (batches.scaling == init.scaling) == (stats == "checkpoint")
        [line] = compare_data(wanted, init, batches)
        assert said in line
    same = config(data__latent_norm=False, **changes)
    init, scaling = open_init(same, str(tmp_path))
    assert scaling is None and compare_data(same, init, open_source(same)) == []


def test_a_source_that_does_not_know_its_scaling(tmp_path, data):
    path, _ = write_source(tmp_path / "s", config(), latents=None)
    changes = {"train__init": path, "data__path": data}
    assert "does not say how its latents are scaled; set it to 'data'" in refusal(
        tmp_path, data__stats="checkpoint", **changes
    )
    wanted = config(**changes)
    init, _ = open_init(wanted, "nothing")
    [line] = compare_data(wanted, init, open_source(wanted))
    assert line.endswith("does not say how its latents are scaled; not compared")


def test_classes_of_other_names_are_said(source):
    """The source's are a to j; a list of train.init_labels has been thought about."""
    wanted = config(train__init=source)
    init, _ = open_init(wanted, "nothing")
    shards = types.SimpleNamespace(class_names=("a", "c", "b", "d"))
    data = LatentBatches(shards, init.scaling)
    [line] = compare_data(wanted, init, data)
    assert "2 have other names, such as 1: 'b' in the source, 'c' here" in line
    listed = wanted.changed(train={"init_labels": "a,c,b,d"})
    assert compare_data(listed, init, data) == []


def test_a_tokenizer_of_another_norm(tmp_path):
    """Which no array shows."""
    wanted = tiny.config("digits_vavae")
    fields = dataclasses.asdict(tokenizer_config(wanted)) | {"num_groups": 16}
    path, _ = write_source(tmp_path / "s", wanted, architecture=fields)
    wanted = wanted.changed(train={"init": path})
    with pytest.raises(ValueError, match=r"num_groups \(16 in the source, 32 here\); set config"):
        plan_takeover(wanted, open_init(wanted, "nothing")[0], job_of(wanted)[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("blocks",)}, "config.optimizer.freeze holds 'blocks', which no parameter's"),
        ({"rate_factors": ("x/*=2",)}, "config.optimizer.rate_factors holds 'x/*', which no para"),
        (
            {"rate_factors": ("blocks/*",)},
            "holds 'blocks/*'; expected PATTERN=FACTOR with a factor",
        ),
        ({"rate_factors": ("*=0",)}, "holds '*=0'; expected PATTERN=FACTOR with a factor above 0"),
        (
            {"rate_factors": ("*=nan",)},
            "holds '*=nan'; expected PATTERN=FACTOR with a factor above",
        ),
    ],
)
def test_patterns_of_the_optimizer(tmp_path, data, changes, message):
    changes = {f"optimizer__{name}": value for name, value in changes.items()}
    assert message in refusal(tmp_path, data__path=data, **changes)
