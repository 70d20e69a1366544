"""A workdir that holds no model for the mode: what kind of run is meant, and what to do."""

import pytest

from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.commands.model_source import check_model, model_source
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_tokenizer(folder / "tok" / "checkpoints" / "0")
    path = folder / "gen" / "checkpoints" / "0"
    save_generator(path, random_generator(), flow=Flow(), scaling=LatentScaling())
    for name, kind in (("tok", "digits_vavae"), ("gen", "digits_dit")):
        write_config(tiny.config(kind), str(folder / name))
    return folder


CONFIGS = {"tok": "digits_vavae", "gen": "digits_dit", "dit_xl": "dit_xl"}
GENERATOR = "--mode=sample takes a generator: give the run of one as --config, and this one as "


@pytest.mark.parametrize(
    ("mode", "given", "workdir", "said"),
    [
        ("sample", "tok", "other", f"no checkpoint.*tok is of a tokenizer, and {GENERATOR}"),
        ("sample", "tok", "tok", rf"holds a vavae; .*{GENERATOR}--config\.sample\.tokenizer=tok$"),
        ("sample", "gen", "other", r"of that run alone: add --config\.sample\.checkpoint=gen to "),
        ("sweep", "gen", "other", r"add --config\.sample\.checkpoint=gen to take its weights$"),
        ("extract", "tok", "other", r"add --config\.extract\.checkpoint=tok to take its weights$"),
        ("extract", "gen", "gen", r"of a generator, and --mode=extract takes a tokenizer: give"),
        ("evaluate", "tok", "other", r"add --config\.extract\.checkpoint=tok to take its weights$"),
        ("sample", "dit_xl", "other", r"there is no such directory$"),  # no run is meant
    ],
)
def test_the_run_that_is_meant_is_named(runs, monkeypatch, mode, given, workdir, said):
    monkeypatch.chdir(runs)
    config = tiny.config(CONFIGS[given])
    path, key = model_source(mode, config, workdir)
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        check_model(path, key, mode, config, given)


def test_a_checkpoint_that_is_named_is_what_counts(runs, monkeypatch):
    monkeypatch.chdir(runs)
    config = tiny.config("digits_vavae", sample__checkpoint="gen", sample__tokenizer="tok")
    check_model(*model_source("sample", config, "other"), "sample", config, "tok")
    config = tiny.config("digits_dit", sample__checkpoint="none")
    with pytest.raises(FileNotFoundError, match=r"there is no such directory$"):
        check_model(*model_source("sample", config, "gen"), "sample", config, "gen")


def test_samples_in_a_file_need_no_model():
    assert model_source("evaluate", tiny.config("digits_dit"), "w") == ("", "")
