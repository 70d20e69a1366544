"""diffusers' AutoencoderKL: what its config.json says is used, and asked for where it is not there.

testdata/diffusers_vae_groups.safetensors was made with diffusers 0.42.1 and torch 2.14.1:
AutoencoderKL of CONFIG below with random weights of half precision ("weights.*"), a batch "in.x",
latents "in.z", and for each act_fn what it encodes ("ACT.moments") and decodes ("ACT.decode"),
NCHW, computed in float32.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.diffusers_config import diffusers_config
from lightningdit_jax.convert.files import convert_files, export_diffusers, export_file
from lightningdit_jax.convert.keymap import ConversionError, Hints
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from tests import golden, tiny

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


@pytest.mark.slow
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


def weights_of(data):
    return {k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")}


@pytest.fixture
def folder(data, tmp_path):
    """The folder that diffusers' save_pretrained writes."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    save_file(weights_of(data), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_folder_is_a_source(folder, data, tmp_path):
    convert_files([str(folder)], str(tmp_path / "out"), say=str)
    assert_equals_diffusers(str(tmp_path / "out"), data, "silu")
    files = read_meta(find_checkpoint(str(tmp_path / "out")))["source"]["files"]
    assert [f["file"] for f in files] == ["diffusion_pytorch_model.safetensors", "config.json"]


def without_quant_convs(data, names=("quant_conv", "post_quant_conv")):
    return {k: v for k, v in weights_of(data).items() if k.partition(".")[0] not in names}


def pointwise(data, name, x):
    """A 1x1 convolution of diffusers. [B, C, h, w] -> [B, C', h, w]."""
    weights = {key: data[f"weights.{name}.{key}"].astype(np.float32) for key in ("weight", "bias")}
    out = np.einsum("oc,bchw->bohw", weights["weight"][:, :, 0, 0], x)
    return out + weights["bias"][:, None, None]


def test_an_autoencoder_without_convolutions_around_its_latents(folder, data, tmp_path):
    """What diffusers' quant_conv does to its moments, and post_quant_conv to latents, by hand."""
    save_file(without_quant_convs(data), folder / "diffusion_pytorch_model.safetensors")
    changes = {"use_quant_conv": False, "use_post_quant_conv": False}
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    convert_files([str(folder)], str(tmp_path / "out"), say=str)
    vae = ldj.load(str(tmp_path / "out"))
    assert not vae.config.quant_conv and vae.config.embed_dim == 4
    posterior = vae.encode(golden.to_nhwc(data["in.x"]))
    moments = golden.to_nchw(np.concatenate([posterior.mean, posterior.logvar], -1))
    want = data["silu.moments"]
    np.testing.assert_allclose(pointwise(data, "quant_conv", moments), want, atol=2e-5)
    latents = pointwise(data, "post_quant_conv", data["in.z"])
    images = golden.to_nchw(vae.decode(golden.to_nhwc(latents)))
    np.testing.assert_allclose(images, data["silu.decode"], atol=2e-5)


@pytest.mark.parametrize("lost", ["quant_conv", "post_quant_conv"])
def test_one_of_the_two_convolutions_alone_is_refused(lost, folder, data, tmp_path):
    save_file(without_quant_convs(data, (lost,)), folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ConversionError, match=rf"missing: {lost}.weight"):
        convert_files([str(folder)], str(tmp_path / "out"), say=str)
    save_file(without_quant_convs(data), folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ConversionError, match="use_quant_conv is True, but the tensors tell F"):
        convert_files([str(folder)], str(tmp_path / "out"), say=str)


def test_two_names_of_one_tensor_are_refused(folder, data, tmp_path):
    """The older and the newer names of diffusers' attention in one file."""
    old = {k.replace(".to_q.", ".query."): v for k, v in weights_of(data).items() if ".to_q." in k}
    save_file(weights_of(data) | old, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ConversionError, match=r"query.weight -> .*attn_1.q.weight"):
        convert_files([str(folder)], str(tmp_path / "out"), say=str)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shift_factor": None},
        {"shift_factor": None, "latents_mean": [0.0, 1, 2, 3], "latents_std": [1.0, 2, 4, 8]},
        {"use_quant_conv": False, "use_post_quant_conv": False, "act_fn": "gelu"},
    ],
)
def test_there_and_back_is_bit_identical(changes, folder, data, tmp_path):
    """Names, layouts and config are those that diffusers wrote."""
    theirs = weights_of(data)
    if "use_quant_conv" in changes:
        theirs = without_quant_convs(data)
    save_file(theirs, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    convert_files([str(folder)], str(tmp_path / "ours"), say=str)
    export_diffusers(str(tmp_path / "ours"), str(tmp_path / "back"), say=str)
    back = load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors")
    assert back.keys() == theirs.keys()
    for key, want in theirs.items():
        np.testing.assert_array_equal(back[key], want.astype(np.float32))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    own = ("_diffusers_version", "sample_size")  # theirs alone; nominal
    want = {key: value for key, value in (CONFIG | changes).items() if key not in own}
    assert {key: value for key, value in config.items() if key not in own} == want


def test_statistics_go_into_the_config_of_a_tokenizer_that_has_none(tmp_path):
    source = str(golden.GOLDEN / "checkpoints" / "vavae_bare_fp16.pt")
    convert_files([source], str(tmp_path / "vae"), say=str)
    channels = ldj.load(str(tmp_path / "vae")).config.embed_dim
    mean, std = np.arange(channels, dtype=np.float32), np.full(channels, 2, np.float32)
    save_file({"mean": mean, "std": std}, tmp_path / "stats.safetensors")

    lines = []
    export_diffusers(str(tmp_path / "vae"), str(tmp_path / "a"), say=lines.append)
    assert any(line.startswith("  not known: how its latents are scaled") for line in lines)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["scaling_factor"], config["latents_mean"]) == (1.0, None)

    given = {"latent_stats": str(tmp_path / "stats.safetensors"), "latent_multiplier": 0.5}
    export_diffusers(str(tmp_path / "vae"), str(tmp_path / "b"), say=str, **given)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["latents_mean"], config["latents_std"]) == (mean.tolist(), std.tolist())
    assert config["scaling_factor"] == 0.5
    convert_files([str(tmp_path / "b")], str(tmp_path / "again"), say=str)
    with pytest.raises(ValueError, match=r"again says how its latents are scaled.*leave the opt"):
        export_diffusers(str(tmp_path / "again"), str(tmp_path / "c"), say=str, **given)

    with pytest.raises(FileExistsError, match="--overwrite"):
        export_diffusers(str(tmp_path / "vae"), str(tmp_path / "b"), say=str)
    export_diffusers(str(tmp_path / "vae"), str(tmp_path / "b"), overwrite=True, say=str)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 0}')  # a run's
    for path in ("run", "run/config.json"):
        with pytest.raises(FileExistsError, match="no autoencoder of diffusers, which alone"):
            export_diffusers(str(tmp_path / "vae"), str(tmp_path / path), overwrite=True, say=str)
    assert (tmp_path / "run" / "config.json").read_text() == '{"seed": 0}'


def test_what_diffusers_does_not_have_is_refused(tmp_path):
    source = str(golden.GOLDEN / "checkpoints" / "release_full.pt")
    convert_files([source], str(tmp_path / "dit"), say=str)
    with pytest.raises(ValueError, match="dit is a lightningdit; diffusers' AutoencoderKL takes"):
        export_diffusers(str(tmp_path / "dit"), str(tmp_path / "out"), say=str)
    config = VAVAEConfig(8, 3, 32, (1, 1), 1, (), (), 8, 8)
    for changes in ({"embed_dim": 4}, {"use_variational": False}):
        with pytest.raises(ValueError, match=r"is no AutoencoderKL of diffusers; .*--to-torch"):
            diffusers_config(dataclasses.replace(config, **changes), LatentScaling())
    assert not (tmp_path / "out").exists()


LOADED = """
import sys, numpy as np, torch, diffusers
folder, results = sys.argv[1:]
vae = diffusers.AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
given = np.load(results)
with torch.no_grad():
    moments = vae.encode(torch.from_numpy(given["x"])).latent_dist.parameters.numpy()
    images = vae.decode(torch.from_numpy(given["z"])).sample.numpy()
np.savez(results, moments=moments, images=images, scale=vae.config.scaling_factor)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "diffusers"))), reason="needs diffusers"
)
@pytest.mark.parametrize(("quant_conv", "side"), [(True, 32), (False, 32), (True, 64)])
def test_diffusers_loads_what_is_written_and_computes_the_same(quant_conv, side, tmp_path):
    """Attention at the coarse level, another number of groups, levels of several widths.

    side: of the images, the nominal one or twice as much.
    """
    config = VAVAEConfig(
        *(32, 3, 32, (1, 2), 1, (16,), (16,), 8, 8), num_groups=16, quant_conv=quant_conv
    )
    path = tiny.write_network(tmp_path / "vae", VAVAE, config, "vavae")
    vae = ldj.load(path)
    stats = {"latent_stats": "none", "latent_multiplier": 0.25}
    export_diffusers(path, str(tmp_path / "hub"), say=str, **stats)
    rng = np.random.default_rng(0)
    x, z = (
        rng.normal(size=s).astype(np.float32)
        for s in ((2, 3, side, side), (2, 8, side // 2, side // 2))
    )
    np.savez(tmp_path / "io.npz", x=x, z=z)
    # In a process of its own: other tests assert that nothing imports torch.
    command = [sys.executable, "-c", LOADED, str(tmp_path / "hub"), str(tmp_path / "io.npz")]
    subprocess.run(command, check=True)
    theirs = np.load(tmp_path / "io.npz")
    assert theirs["scale"] == 0.25
    posterior = vae.encode(golden.to_nhwc(x))
    moments = golden.to_nchw(np.concatenate([posterior.mean, posterior.logvar], -1))
    np.testing.assert_allclose(moments, theirs["moments"], atol=2e-5)
    images = golden.to_nchw(vae.decode(golden.to_nhwc(z)))
    np.testing.assert_allclose(images, theirs["images"], atol=2e-5)
