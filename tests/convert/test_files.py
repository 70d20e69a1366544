"""Files of PyTorch weights to checkpoints and back, on the release's own layouts."""

import hashlib
import os

import numpy as np
import pytest
import safetensors.numpy

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.files import convert_files, export_file
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.data.latents import load_stats
from tests.golden import GOLDEN

FILES = GOLDEN / "checkpoints"
SAME_WEIGHTS = [
    "release_full",
    "no_prefix",
    "orig_mod_prefix",
    "module_orig_mod_prefix",
    "bare_state_dict",
    "legacy_format",
]


def convert(name, dst, **options):
    lines = []
    defaults = {"kind": "auto", "weights": "ema", "overwrite": False}
    convert_files([str(FILES / name)], str(dst), say=lines.append, **(defaults | options))
    return lines


@pytest.fixture(scope="module")
def release():
    return read_source(str(FILES / "release_full.pt"), "ema").tensors


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_every_layout_of_a_generator_reads_the_same(name, release):
    tensors = read_source(str(FILES / f"{name}.pt"), "ema").tensors
    assert tensors.keys() == release.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(value, release[key])


def test_weights_choose_between_average_and_model(release):
    model = read_source(str(FILES / "release_full.pt"), "model")
    assert model.wrapper == "model" and model.tensors.keys() == release.keys()
    assert not np.array_equal(model.tensors["pos_embed"], release["pos_embed"])


def test_generator_there_and_back_is_bit_identical(tmp_path, release):
    lines = convert("release_full.pt", tmp_path / "dit")
    assert any("hidden_size" in line and "16" in line for line in lines)
    export_file(str(tmp_path / "dit"), str(tmp_path / "back.safetensors"), say=lines.append)
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == release.keys()
    for key in release:
        np.testing.assert_array_equal(back[key], release[key])


def test_converted_generator_loads_from_its_path_alone(tmp_path, release, capsys):
    convert("release_full.pt", tmp_path / "dit")
    dit = ldj.load(str(tmp_path / "dit"), verbose=True)
    description = capsys.readouterr().out
    assert "release_full.pt" in description and "hidden_size                16" in description
    size, channels = dit.config.input_size, dit.config.in_channels
    velocity = dit(np.ones((1, size, size, channels), np.float32), np.array([0.5]), np.array([0]))
    assert np.isfinite(velocity).all()
    source = read_meta(find_checkpoint(str(tmp_path / "dit")))["source"]
    content = (FILES / "release_full.pt").read_bytes()
    assert source["files"] == [
        {"file": "release_full.pt", "sha256": hashlib.sha256(content).hexdigest()}
    ]
    assert (source["kind"], source["weights"]) == ("lightningdit", "ema")
    assert source["tensors"] == source["converted"] == len(release)


@pytest.mark.parametrize("name", ["vavae_state_dict", "vavae_bare_fp16", "marvae_fp16"])
def test_tokenizers(name, tmp_path):
    convert(f"{name}.pt", tmp_path / "vae")
    vae = ldj.load(str(tmp_path / "vae"))
    assert vae.config.decoder_attn_resolutions == (() if name == "marvae_fp16" else (16,))
    tensors = read_source(str(FILES / f"{name}.pt"), "ema").tensors
    want = np.asarray(tensors["encoder.conv_in.weight"], np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(vae.encoder.conv_in.kernel[...], want)


def test_statistics(tmp_path):
    lines = []
    convert_files(
        [str(GOLDEN / "latents" / "latents_stats.pt")],
        str(tmp_path),
        kind="auto",
        weights="ema",
        overwrite=False,
        say=lines.append,
    )
    np.testing.assert_array_equal(load_stats(tmp_path).mean, load_stats(GOLDEN / "latents").mean)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("missing_key", ["x_embedder.proj.weight"]),
        (
            "wrong_shape_and_extra",
            [
                "wrong shape: x_embedder.proj.bias",
                "unknown: unexpected.weight",
                "missing: pos_embed",
                "missing: blocks.0.attn.qkv.weight (48, 16)",
            ],
        ),
        ("truncated", ["truncated.pt"]),
        ("empty", ["empty.pt"]),
        ("unsafe_getenv", ["unsafe_getenv.pt", "getenv"]),
        ("unsafe_eval", ["unsafe_eval.pt", "eval"]),
        ("unsafe_plain_pickle", ["unsafe_plain_pickle.pt"]),
    ],
)
def test_refusals_name_everything_and_write_nothing(name, messages, tmp_path):
    with pytest.raises(ValueError) as error:
        convert(f"{name}.pt", tmp_path / "out", kind="lightningdit")
    for message in messages:
        assert message in str(error.value)
    assert not (tmp_path / "out").exists()
    assert "GOLDEN_FIXTURE_CANARY" not in os.environ


def test_existing_target_is_kept_unless_asked(tmp_path):
    convert("release_full.pt", tmp_path / "dit")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert("no_prefix.pt", tmp_path / "dit")
    convert("no_prefix.pt", tmp_path / "dit", overwrite=True)
    meta = read_meta(find_checkpoint(str(tmp_path / "dit")))
    assert meta["source"]["files"][0]["file"] == "no_prefix.pt"


def test_unknown_file_and_suffix_are_named(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors is of no kind.*--kind"):
        convert_files(
            [str(tmp_path / "x.safetensors")],
            str(tmp_path / "out"),
            kind="auto",
            weights="ema",
            overwrite=False,
        )
    with pytest.raises(ValueError, match=r"expected .pt or .safetensors"):
        export_file(str(tmp_path), str(tmp_path / "out.bin"))
