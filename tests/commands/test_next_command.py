"""The command that each mode ends with is one that is not refused."""

import pathlib
import shlex
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath

from lightningdit_jax.assembly.next_command import with_latents, with_weights
from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.commands import main
from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.commands.request import Request
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats, write_shard
from lightningdit_jax.data.latents_record import RECORD
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What main makes of a command before it meets its devices: the config, the keys, the jobs."""
    monkeypatch.chdir(tmp_path)

    def check(command):
        words = shlex.split(command.partition("  (")[0])  # where a note may follow
        assert words[0] == "lightningdit"
        monkeypatch.setattr("sys.argv", words)
        saved = flagsaver.save_flag_values()
        flags.FLAGS.unparse_flags()
        try:
            config, _, (job, *_) = main.checked(main.parse_flags(words))
            return config, job, main.WORKDIR.value
        finally:
            flagsaver.restore_flag_values(saved)

    return check


def request(kind, workdir, given, **changes):
    return Request(tiny.config(kind, **changes), workdir, "v5e:4x4", "train", given)


def after(mode, *args, **changes):
    (command,) = MODES[mode].next(request(*args, **changes))
    return command


@pytest.mark.parametrize("kind", ["digits_vavae", "digits_dit"])
def test_a_trained_model_is_used(asked, kind):
    write_config(tiny.config(kind), "a run")
    command = after("train", kind, "a run", kind)
    config, job, workdir = asked(command)
    used = {"digits_vavae": "--mode=extract", "digits_dit": "--mode=sample"}[kind]
    assert (config, job, workdir) == (tiny.config(kind), used, "a run")
    assert "TOKENIZER" not in command  # digits_dit says where its own lies


def test_a_generator_without_a_tokenizer_is_asked_for_it(asked):
    write_config(tiny.config("dit_xl"), "w")
    assert asked(after("train", "dit_xl", "w", "dit_xl"))[0].sample.tokenizer == "TOKENIZER"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "checkpoint")


@pytest.fixture
def extracted(asked, tokenizer):
    """Where a tokenizer lies, and latents that say which made them, elsewhere and beside it."""
    shutil.copytree(tokenizer, "a tok/checkpoints/0")
    for folder, named in (("l", "a tok"), ("gone", "nowhere"), ("a tok/latents", "nowhere")):
        pathlib.Path(folder).mkdir()
        write_json(epath.Path(folder) / RECORD, {"tokenizer": "0", "tokenizer_path": named})


@pytest.mark.parametrize(
    ("latents", "in_config", "said"),
    [
        ("l", "", "a tok"),
        ("a tok/latents", "", "a tok"),
        ("gone", "", "TOKENIZER"),
        ("l", "gone", "a tok"),  # what the config names is not there
        ("l", "a tok", None),
        ("gone", "outputs/later", None),
    ],
)
def test_the_tokenizer_is_named_where_the_latents_tell_it(
    asked, extracted, latents, in_config, said
):
    config = tiny.config("dit_xl", data__path=latents, sample__tokenizer=in_config)
    write_config(config, "w")
    command = after(
        "train", "dit_xl", "w", "dit_xl", **{"data__path": latents, "sample__tokenizer": in_config}
    )
    assert ("sample.tokenizer=" in command) == (said is not None)
    assert asked(command)[0].sample.tokenizer == (said or in_config)


def test_one_checkpoint_is_sampled_with_the_tokenizer_of_its_latents(asked, extracted):
    (command,) = with_weights("runs/w/checkpoints/5", "lightningdit", "", "l")
    options = asked(command)[0].sample
    assert (options.checkpoint, options.tokenizer) == ("runs/w/checkpoints/5", "a tok")
    (command,) = with_weights("runs/w/checkpoints/5", "lightningdit", "a tok", "")
    assert asked(command)[0].sample.tokenizer == "a tok"


def test_latents_are_trained_on_as_they_are(asked, tmp_path):
    rows = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 16))
    write_shard(tmp_path / "l", 0, 0, *rows.astype(np.float32), np.array([0, 4, 1]))
    save_stats(tmp_path / "l", compute_stats(LatentShards(tmp_path / "l")))
    command = after("extract", "dit_xl", "w", "vavae_f16d16", extract__path=f"{tmp_path}/l")
    model = asked(command)[0].model
    assert (model.variant, model.in_channels, model.input_size, model.num_classes) == (
        ("XL/1", 16, 8, 5)
    )
    LatentShards(tmp_path / "l").check(model.in_channels, model.input_size, model.num_classes)


@pytest.mark.parametrize(
    ("channels", "side", "config"),
    [
        (32, 16, "dit_xl"),
        (32, 32, "dit_xl_512"),
        (4, 32, "dit_xl_sdvae"),
        (8, 4, "digits_dit"),
        (8, 8, "photos_64:generator"),
    ],
)
def test_latents_are_trained_on_by_the_config_of_their_shape(asked, channels, side, config):
    rows = np.zeros((2, 1, side, side, channels), np.float32)
    write_shard(epath.Path("l"), 0, 0, *rows, np.zeros(1, np.int64))
    (command,) = with_latents(LatentShards(epath.Path("l")))
    assert f"--config={config} " in command and "in_channels" not in command
    model = asked(command)[0].model
    assert (model.in_channels, model.input_size, model.num_classes) == (channels, side, 1)


@pytest.mark.parametrize(
    ("mode", "kind", "job"),
    [
        ("sample", "dit_xl", "--mode=evaluate of a generator's samples"),
        ("evaluate", "dit_xl", "--mode=sweep"),
        ("evaluate", "vavae_f16d32", "--mode=extract"),
        ("compile", "dit_xl", "the training of a generator"),
    ],
)
def test_the_others_go_on_with_the_same_config(asked, mode, kind, job):
    assert asked(after(mode, kind, "w", kind))[1:] == (job, "w")


def test_the_best_of_a_sweep_is_sampled(asked):
    rows = [
        {"settings": {"cfg_scale": scale, "solver": "euler"}, "numbers": {"fid": fid}}
        for scale, fid in ((4.0, 3.2), (6.5, 2.4), (9.0, 5.1))
    ]
    write_json(epath.Path("w/sweep.json"), rows)
    command = after("sweep", "dit_xl", "w", "dit_xl", sweep__cfg_scale=(4.0, 6.5, 9.0))
    config, job, _ = asked(command)
    assert (config.sample.cfg_scale, job) == (6.5, "--mode=sample")


def test_pictures_are_not_evaluated():
    assert MODES["sample"].next(request("dit_xl", "w", "dit_xl", sample__output="png")) == []


KINDS = {
    "lightningdit": ("--mode=sample", "sample.checkpoint"),
    "vavae": ("--mode=extract", "extract.checkpoint"),
    "dinov2": ("the training of a tokenizer", "frozen.foundation"),
    "lpips": ("the training of a tokenizer", "frozen.lpips"),
    "inception": ("--mode=evaluate of a generator's samples", "evaluate.inception"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_converted_weights_have_a_use(asked, kind):
    (command,) = with_weights("ckpts/it", kind)
    job, key = KINDS[kind]
    config, found, _ = asked(command)
    assert config.value(key) == "ckpts/it" and found == job


def test_a_part_of_a_training_has_none():
    assert with_weights("ckpts/it", "discriminator") == []


def test_the_command_is_called_as_it_was_started(monkeypatch):
    names = {"/x/main.py": "python main.py", "/x/bin/lightningdit": "lightningdit"}
    for program, name in names.items():
        monkeypatch.setattr("sys.argv", [program])
        (command,) = with_weights(str(pathlib.Path("a b")), "lpips")
        assert command.startswith(f"{name} --config=") and shlex.split(command)[-1].endswith("a b")
