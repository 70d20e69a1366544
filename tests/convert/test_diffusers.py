"""diffusers' AutoencoderKL: what its config.json says is used, and asked for where it is not there.

testdata/diffusers_vae_groups.safetensors was made with diffusers 0.42.1 and torch 2.14.1:
AutoencoderKL of CONFIG below with random weights of half precision ("weights.*"), a batch "in.x",
latents "in.z", and for each act_fn what it encodes ("ACT.moments") and decodes ("ACT.decode"),
NCHW, computed in float32.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.files import convert_files, export_file
from lightningdit_jax.convert.keymap import ConversionError, Hints
from tests import golden

CONFIG = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.42.1",
    "act_fn": "silu",
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 16,
    "out_channels": 3,
    "sample_size": 16,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


@pytest.fixture(scope="module")
def data():
    path = golden.GOLDEN.parent / "diffusers_vae_groups.safetensors"
    return safetensors.numpy.load_file(path)


@pytest.fixture
def convert(data, tmp_path):
    """Converts the weights beside a config.json. -> (lines that were printed, checkpoint)."""

    def run(config, hints=Hints()):  # noqa: B008, frozen
        weights = {k.removeprefix("weights."): v for k, v in data.items() if "weights." in k}
        folder = tmp_path / "vae"
        folder.mkdir(exist_ok=True)
        safetensors.numpy.save_file(weights, folder / "weights.safetensors")
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        lines = []
        source, target = str(folder / "weights.safetensors"), str(tmp_path / "out")
        convert_files([source], target, hints=hints, say=lines.append)
        return lines, target

    yield run


def assert_equals_diffusers(path, data, act_fn):
    vae = ldj.load(path)
    posterior = vae.encode(golden.to_nhwc(data["in.x"]))
    moments = golden.to_nchw(np.concatenate([posterior.mean, posterior.logvar], -1))
    np.testing.assert_allclose(moments, data[f"{act_fn}.moments"], atol=2e-5)
    images = golden.to_nchw(vae.decode(golden.to_nhwc(data["in.z"])))
    np.testing.assert_allclose(images, data[f"{act_fn}.decode"], atol=2e-5)


@pytest.mark.parametrize("act_fn", ["silu", "relu", "gelu", "mish"])
def test_groups_and_activation_of_the_config_are_those_of_the_module(convert, data, act_fn):
    lines, path = convert(CONFIG | {"act_fn": act_fn})
    assert any("num_groups" in line and "16" in line for line in lines)
    assert_equals_diffusers(path, data, act_fn)
    others = {"silu", "relu", "gelu", "mish"} - {act_fn}  # they can be told apart by far more
    assert min(np.abs(data[f"{a}.decode"] - data[f"{act_fn}.decode"]).max() for a in others) > 0.05


def test_without_a_config_groups_and_activation_are_asked_for(convert, data, tmp_path):
    for hints in (Hints(), Hints(norm_groups=16), Hints(act_fn="relu")):
        with pytest.raises(ConversionError) as caught:
            convert(None, hints)
        message = str(caught.value)
        assert message.startswith("weights.safetensors has diffusers' names")
        assert ("--norm-groups" in message) == (hints.norm_groups is None)
        assert ("--act-fn" in message) == (hints.act_fn is None)
        assert not (tmp_path / "out").exists()
    _, path = convert(None, Hints(norm_groups=16, act_fn="relu"))
    assert_equals_diffusers(path, data, "relu")
    assert ldj.load(path).latent_scaling is None
    assert "latents" not in read_meta(find_checkpoint(path))


def test_the_command_asks_and_takes_the_answer(convert, data, tmp_path):
    with pytest.raises(ConversionError):
        convert(None)
    command = [sys.executable, "convert_torch_weights.py", "--dst", str(tmp_path / "out")]
    command += ["--src", str(tmp_path / "vae" / "weights.safetensors")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "--norm-groups" in ended.stderr and "--act-fn" in ended.stderr
    subprocess.run([*command, "--norm-groups=16", "--act-fn=mish"], check=True)
    assert_equals_diffusers(str(tmp_path / "out"), data, "mish")


@pytest.mark.parametrize(
    ("changes", "text", "latents"),
    [
        (
            {},
            "(x - 0.25) / 1 * 0.5",
            {"mean": [0.25] * 4, "std": [1.0] * 4, "multiplier": 0.5},
        ),
        (
            {"shift_factor": None},
            "x * 0.5",
            {"mean": None, "std": None, "multiplier": 0.5},
        ),
        (
            {"shift_factor": None, "latents_mean": [0, 1, 2, 3], "latents_std": [1, 2, 4, 8]},
            "(x - mean) / std * 0.5, statistics of 4 channels",
            {"mean": [0.0, 1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0, 8.0], "multiplier": 0.5},
        ),
    ],
)
def test_scaling_is_stored_printed_and_shown(convert, capsys, changes, text, latents):
    """As diffusers' pipelines do it: (x - latents_mean or shift) / latents_std * scaling."""
    lines, path = convert(CONFIG | changes)
    assert any(line.endswith(text) for line in lines)
    assert read_meta(find_checkpoint(path))["latents"] == latents
    capsys.readouterr()
    assert ldj.load(path, verbose=True).latent_scaling.to_meta() == latents
    shown = capsys.readouterr().out
    assert text in shown and "config.json  SHA-256" in shown


def test_an_older_config_has_the_defaults_of_diffusers(convert):
    """Version 0.4 wrote no scaling_factor, no shift_factor and no use_quant_conv."""
    newer = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "use_quant_conv")
    _, path = convert({key: value for key, value in CONFIG.items() if key not in newer})
    latents = read_meta(find_checkpoint(path))["latents"]
    assert latents == {"mean": None, "std": None, "multiplier": 0.18215}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 8}, "latent_channels is 8, but the tensors tell 4"),
        ({"block_out_channels": [32, 64]}, r"block_out_channels is \[32, 64\].*tell \[32, 32\]"),
        ({"layers_per_block": 2}, "layers_per_block is 2, but the tensors tell 1"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 2}, "down_block_types.*'AttnDownEnc"),
        ({"up_block_types": CONFIG["up_block_types"][::-1]}, "up_block_types is"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention is False"),
        ({"use_quant_conv": False}, "use_quant_conv is False"),
        ({"latents_mean": [0.0], "latents_std": [1.0]}, "latents_mean has 1 numbers"),
        ({"act_fn": "tanh"}, "config.json: unknown act_fn 'tanh'.*silu"),
        ({"norm_num_groups": None}, "config.json: norm_num_groups is None"),
        ({"norm_num_groups": 5}, "ch is 32; expected a multiple of 5"),
        ({"scaling_factor": 0}, "config.json: the latent multiplier is 0"),
        ({"scaling_factor": "large"}, "config.json: "),
        ({"latents_mean": [0, 0, 0, 0], "latents_std": [1, 1, 0, 1]}, "has both shift_factor"),
        (
            {"latents_mean": [0, 0, 0, 0], "latents_std": [1, 1, 0, 1], "shift_factor": None},
            "config.json: .*std 0.0 in channel 2",
        ),
        ({"_class_name": "AutoencoderKLWan"}, "config.json is of 'AutoencoderKLWan'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(convert, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        convert(CONFIG | changes)
    assert not (tmp_path / "out").exists()


def test_options_that_contradict_the_config_are_refused(convert):
    with pytest.raises(ValueError, match=r"--norm-groups is 32, but .*config.json says 16"):
        convert(CONFIG, Hints(norm_groups=32))
    with pytest.raises(ValueError, match=r"--act-fn is relu, but .*config.json says silu"):
        convert(CONFIG, Hints(act_fn="relu"))


def test_keys_that_are_not_known_are_named(convert):
    lines, _ = convert(CONFIG | {"spatial_norm": True})
    assert "  config.json: keys that are not known here: spatial_norm" in lines


def test_export_says_what_a_file_with_ldms_names_does_not_tell(tmp_path):
    source = str(golden.GOLDEN / "checkpoints" / "vavae_bare_fp16.pt")
    hints = Hints(act_fn="relu", norm_groups=16)
    lines = []
    convert_files([source], str(tmp_path / "vae"), hints=hints, say=lines.append)
    lines.clear()
    export_file(str(tmp_path / "vae"), str(tmp_path / "ldm.safetensors"), say=lines.append)
    assert lines[1:] == [
        "  not told by the file: num_groups is 16, read back as 32",
        "  not told by the file: activation is relu, read back as silu",
    ]
