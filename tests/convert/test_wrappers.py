"""Which weights of a training checkpoint are taken, and that it is said."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.convert.wrappers import choose_weights
from tests.golden import GOLDEN

AVERAGED = ["ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model"]


def state(value, prefix=""):
    return {f"{prefix}{name}": np.full(2, value) for name in ("blocks.0.weight", "pos_embed")}


RAW, EMA = state(0.0), state(1.0)


def value_of(taken):
    """The number all of its tensors hold, once they have RAW's names."""
    assert taken.names == RAW.keys()
    return {float(x) for tensor in taken.state.values() for x in tensor}


@pytest.mark.parametrize("raw", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("averaged", AVERAGED)
def test_the_averages_are_taken_whatever_they_are_called(raw, averaged):
    content = {raw: RAW, averaged: EMA, "epoch": 3, "opt": {"state": {0: {"m": np.ones(2)}}}}
    for weights in (None, "ema", averaged):
        taken = choose_weights(content, weights)
        assert value_of(taken) == {1.0} and not taken.note
        assert (taken.entry, taken.which) == (averaged, "ema")
    for weights in ("model", raw):
        taken = choose_weights(content, weights)
        assert value_of(taken) == {0.0} and (taken.entry, taken.which) == (raw, "model")


@pytest.mark.parametrize("prefix", ["ema_model.", "model_ema.", "ema.", "module.ema_model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_averages_under_a_prefix_beside_raw_weights(prefix, wrapper):
    content = RAW | state(1.0, prefix)
    content = content if wrapper is None else {wrapper: content}
    taken = choose_weights(content, None)
    assert value_of(taken) == {1.0} and taken.which == "ema"
    assert "averages" in taken.note and "2 tensors beside them left out" in taken.note
    raw = choose_weights(content, "model")
    assert value_of(raw) == {0.0} and raw.which == "model" and "left out" in raw.note


def test_what_the_file_lacks_is_said():
    taken = choose_weights({"model": RAW, "step": 1}, None)
    assert taken.note == "no averages in the file: raw weights of 'model'"
    assert choose_weights({"model": RAW}, "ema").note == taken.note
    taken = choose_weights({"model_ema": EMA, "epoch": 1}, "model")
    assert taken.note == "no raw weights in the file: averages of 'model_ema'"
    assert choose_weights({"teacher": EMA, "epoch": 1}, None).entry == "teacher"
    bare = choose_weights(RAW, None)
    assert (bare.entry, bare.which, bare.note, str(bare)) == ("", "", "", "the file")


def test_mangled_averages_are_left_in_place_and_not_denied():
    """As LDM's LitEma registers them: names without their dots."""
    ldm = RAW | {"model_ema.blocks0weight": np.ones(2), "model_ema.decay": np.ones(())}
    taken = choose_weights({"state_dict": ldm}, None)
    assert taken.state.keys() == ldm.keys()
    assert taken.note == (
        "raw weights of 'state_dict': its averages 'model_ema.*' have mangled names"
    )


@pytest.mark.parametrize(
    ("content", "weights", "message"),
    [
        ({"model": RAW, "ema": {}}, None, "'ema' is empty.*--weights=model"),
        ({"model": RAW, "ema": 0.9999}, "ema", "'ema' is a float without.*--weights=model"),
        ({"model": RAW, "model_ema": {"shadow": EMA}}, None, "a dict without.*--weights=model"),
        ({"model": RAW, "ema": EMA, "model_ema": EMA}, None, "--weights=ema or --weights=model_"),
        ({"model": RAW, "state_dict": EMA}, None, "--weights=model or --weights=state_dict"),
        ({"model": RAW, "shadow": EMA}, None, "--weights=model or --weights=shadow"),
        ({"student": RAW, "teacher": EMA}, "model", "--weights=student or --weights=teacher"),
        ({"model": RAW, "ema": EMA}, "mdoel", r"no entry 'mdoel'.*'model' \(raw weights\), 'ema'"),
        (RAW, "net", "no entry 'net', its weights are in the file"),
        (
            {"student": state(0.0, "net."), "teacher": state(1.0, "net.")},
            "net",
            "holds 'net' 2 times; give --weights=student.net or --weights=teacher.net",
        ),
    ],
)
def test_what_is_not_clear_is_a_question(content, weights, message):
    with pytest.raises(ValueError, match=message):
        choose_weights(content, weights)


def test_a_module_in_an_entry_is_taken_by_its_name():
    content = {
        "teacher": state(1.0, "module.backbone.") | {"head.weight": np.ones(3)},
        "student": state(0.0, "backbone.") | {"head.weight": np.ones(3)},
    }
    taken = choose_weights(content, "teacher.backbone")
    assert value_of(taken) == {1.0} and taken.entry == "teacher.backbone"
    assert taken.note == "tensors 'backbone.*'; 1 beside them left out"
    both = {"model": state(0.0, "net."), "ema": state(1.0, "net."), "opt": {}}
    assert value_of(choose_weights(both, "net")) == {1.0}  # the averages, as without a name
    assert value_of(choose_weights(both, "model.net")) == {0.0}
    with pytest.raises(ValueError, match="tensors of 'net' are there twice"):
        choose_weights(state(0.0, "net.") | state(1.0, "module.net."), "net")


def test_the_answer_to_a_question_is_taken():
    assert value_of(choose_weights({"model": RAW, "ema": {}}, "model")) == {0.0}
    assert value_of(choose_weights({"model": RAW, "shadow": EMA}, "shadow")) == {1.0}
    both = {"model": RAW, "ema": EMA, "model_ema": state(2.0)}
    assert value_of(choose_weights(both, "ema")) == {1.0}
    assert value_of(choose_weights(both, "model_ema")) == {2.0}


def renamed(path, **names):
    """The release's {"model", "ema", ...} with its entries called otherwise."""
    with (
        zipfile.ZipFile(GOLDEN / "checkpoints" / "release_full.pt") as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                for before, after in names.items():
                    assert data.count(text(before)) == 1
                    data = data.replace(text(before), text(after))
            new.writestr(name, data)
    return str(path)


def text(name):
    """The pickle opcode of a short string."""
    return b"X" + len(name).to_bytes(4, "little") + name.encode()


def test_what_was_taken_is_printed_stored_and_shown(tmp_path, capsys):
    want = read_source(str(GOLDEN / "checkpoints" / "release_full.pt"), "ema").tensors
    source = renamed(tmp_path / "x.pt", ema="model_ema")
    lines = []
    convert_files([source], str(tmp_path / "dit"), say=lines.append)
    assert lines[0].endswith("tensors from 'model_ema' (averages)")
    stored = read_meta(find_checkpoint(str(tmp_path / "dit")))["source"]
    assert (stored["weights"], stored["which"]) == ("model_ema", "ema")
    dit = ldj.load(str(tmp_path / "dit"), verbose=True)
    assert "tensors of model_ema (averages)" in capsys.readouterr().out
    np.testing.assert_array_equal(dit.pos_embed[...], want["pos_embed"][0])

    source = renamed(tmp_path / "y.pt", ema="other", model="model")
    lines.clear()
    convert_files([source], str(tmp_path / "raw"), weights="model", say=lines.append)
    assert lines[0].endswith("tensors from 'model' (raw weights)")


def test_a_question_ends_the_command_before_anything_is_written(tmp_path):
    source = renamed(tmp_path / "x.pt", ema="averages")
    command = [sys.executable, "convert_torch_weights.py", "--src", source]
    ended = subprocess.run(
        [*command, "--dst", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {source}: ")
    assert "--weights=model or --weights=averages" in ended.stderr
    assert not (tmp_path / "out").exists()
