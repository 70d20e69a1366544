"""The tables: total, exact both ways, and refusing what does not fit."""

import dataclasses
import json
import math

import chex
import jax
import ml_dtypes
import numpy as np
import pytest

from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.convert.convert import (
    infer_config,
    params_from_torch,
    params_to_torch,
    torch_shapes,
)
from lightningdit_jax.convert.keymap import ConversionError, Flat, Hints, KeyMap, Rule
from lightningdit_jax.convert.kinds import find_kind
from lightningdit_jax.models.lightningdit_config import variant_dims
from tests import golden, tiny

MANIFESTS = sorted((golden.GOLDEN / "manifests").glob("*.json"))
# Case -> what its weights cannot tell.
GENERATORS = {
    "lightningdit_default": Hints(),
    "lightningdit_qknorm": Hints(),
    "lightningdit_qknorm_layernorm": Hints(),
    "lightningdit_plain_dit": Hints(num_heads=3),
    "lightningdit_wo_shift": Hints(),
    "lightningdit_patch2": Hints(),
    "lightningdit_learn_sigma": Hints(),
    "lightningdit_no_null_class": Hints(null_class=False),
    "lightningdit_pos_embed_loaded": Hints(),
}


OTHERS = {
    "vae": ("vavae", Hints()),
    "foundation_dinov2": ("dinov2", Hints(num_heads=4)),
    "foundation_mae": ("mae", Hints(num_heads=4)),
    "lpips_tiny": ("lpips", Hints()),
    "discriminator": ("discriminator", Hints()),
    "discriminator_actnorm": ("discriminator", Hints()),
}


def structs(shapes):
    """A state dict without values."""
    return {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in shapes.items()}


def generator(name="lightningdit_default"):
    return golden.load_weights(name)


KIND_OF_MANIFEST = {
    "lightningdit": "lightningdit",
    "vavae": "vavae",
    "marvae": "marvae",
    "lpips": "lpips",
    "nlayer": "discriminator",
    "timm_vit_large_patch14_clip": "clip",
    "timm_vit_large_patch14": "dinov2",
    "timm_vit_large_patch16_dinov3": "dinov3",
    "timm_vit_large_patch16": "mae",
    "timm_vit_so400m": "siglip2",
    "timm_convnextv2": "convnextv2",
}


def manifest_of(path):
    """(kind, state dict without values, number of parameters)."""
    manifest = json.loads(path.read_text())
    tensors = {
        key: jax.ShapeDtypeStruct(tuple(e["shape"]), e.get("dtype", "float32"))
        for key, e in manifest["state_dict"].items()
    }
    kind = next(kind for name, kind in KIND_OF_MANIFEST.items() if path.stem.startswith(name))
    if path.stem.startswith("timm"):
        tensors = find_kind(kind).select(tensors)
    return kind, tensors, manifest


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_full_size_state_dicts(path):
    """Every key and shape of the released models, and the number of their parameters."""
    kind, tensors, manifest = manifest_of(path)
    config = infer_config(kind, tensors)
    ours = torch_shapes(kind, config)
    theirs = {key: tensor.shape for key, tensor in tensors.items()}
    if path.stem.startswith("timm"):
        count = manifest["param_count"]
        return check_network_of_timm(path.stem, kind, config, ours, theirs, count)
    if path.stem == "vavae_f16d32_training":
        return check_parts_of_a_training_checkpoint(tensors, ours)
    assert ours == theirs
    is_buffer = {key: e.get("buffer", False) for key, e in manifest["state_dict"].items()}
    parameters = [shape for key, shape in ours.items() if not is_buffer[key]]
    assert sum(map(math.prod, parameters)) == manifest["param_count"]
    if kind == "lightningdit":
        variant = path.stem.removeprefix("lightningdit_").replace("_", "/")
        want = variant_dims(variant) | {"in_channels": 32, "num_classes": 1000, "input_size": 16}
        want |= {"class_dropout_prob": 0.1, "mlp_ratio": 4.0, "learn_sigma": False}
        assert want.items() <= dataclasses.asdict(config).items()
    elif kind in ("vavae", "marvae"):
        assert (config.resolution, config.ch, config.ch_mult) == (256, 128, (1, 1, 2, 2, 4))
        assert config.encoder_attn_resolutions == (16,)
        assert config.decoder_attn_resolutions == (() if kind == "marvae" else (16,))
        assert config.num_res_blocks == 2


def check_network_of_timm(name, kind, config, ours, theirs, count):
    """It is the published one of its kind, whole but for a classifier."""
    published = MODELS[kind].published
    if "reg4" in name:
        published = dataclasses.replace(published, num_registers=4, class_pos_embed=False)
    assert config == published
    assert sum(map(math.prod, theirs.values())) == count
    above = [key for key in theirs if key.startswith("head.") and kind == "convnextv2"]
    assert ours == {key: shape for key, shape in theirs.items() if key not in above}


def check_parts_of_a_training_checkpoint(tensors, autoencoder):
    """Every tensor belongs to the autoencoder or to a kind that takes it out of the file."""
    covered = set(autoencoder)
    for name in ("lpips", "discriminator", "dinov2", "linear_proj"):
        kind = find_kind(name)
        part = kind.select(tensors)
        assert torch_shapes(name, infer_config(name, part)) == {
            key: tensor.shape for key, tensor in part.items()
        }
        covered |= {kind.prefix + key for key in part}
    assert tensors.keys() - covered == {"loss.logvar"}
    left_out = find_kind("vavae").keymap(None).left_out(tensors)
    assert sum(left_out.values()) == len(tensors) - len(autoencoder)


@pytest.mark.parametrize("name", [*GENERATORS, *OTHERS])
def test_there_and_back_is_bit_identical(name):
    weights = golden.load_weights(name)
    kind, hints = OTHERS.get(name, ("lightningdit", GENERATORS.get(name)))
    config, params = params_from_torch(kind, weights, hints=hints)
    back = params_to_torch(kind, config, params)
    assert back.keys() == weights.keys()
    for key, want in weights.items():
        integer = key.endswith(("num_batches_tracked", "initialized"))
        assert (back[key].dtype == np.float32) != integer and back[key].flags.c_contiguous
        if key.startswith("feat_rope."):  # computed, by another cosine than PyTorch's
            np.testing.assert_allclose(back[key], want, rtol=0, atol=6e-8)
        else:
            np.testing.assert_array_equal(back[key], want)
    _, again = params_from_torch(kind, back, hints=hints)
    chex.assert_trees_all_equal(again, params)


def test_fused_parts_and_layers_lie_where_they_should():
    weights = generator()
    _, params = params_from_torch("lightningdit", weights)
    dim, heads, head_dim = 48, 4, 12
    qkv = weights["blocks.1.attn.qkv.weight"]  # rows: q of head 0, q of head 1, ..., then k, v
    blocks = params["blocks"]
    for part, head in ((0, 0), (1, 2), (2, 3)):
        row = part * dim + head * head_dim + 5
        np.testing.assert_array_equal(
            blocks["attn"]["qkv"]["kernel"][1, :, part, head, 5], qkv[row]
        )
    proj = weights["blocks.0.attn.proj.weight"]
    np.testing.assert_array_equal(blocks["attn"]["proj"]["kernel"][0, 3, 7], proj[:, 3 * 12 + 7])
    w12 = weights["blocks.0.mlp.w12.weight"]
    np.testing.assert_array_equal(blocks["mlp"]["w12"]["kernel"][0, :, 1, 9], w12[128 + 9])
    gate = weights["blocks.1.adaLN_modulation.1.bias"][2 * dim : 3 * dim]
    np.testing.assert_array_equal(blocks["adaLN_modulation"]["bias"][1, 2], gate)
    assert params["blocks"]["attn"]["qkv"]["kernel"].shape == (2, dim, 3, heads, head_dim)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_are_read_as_float32(dtype):
    weights = {key: value.astype(dtype) for key, value in generator().items()}
    _, params = params_from_torch("lightningdit", weights)
    want = weights["y_embedder.embedding_table.weight"].astype(np.float32)
    got = params["y_embedder"]["embedding"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


def test_views_that_are_not_contiguous():
    weights = {k: np.asfortranarray(v) for k, v in generator("lightningdit_patch2").items()}
    _, got = params_from_torch("lightningdit", weights)
    _, want = params_from_torch("lightningdit", generator("lightningdit_patch2"))
    chex.assert_trees_all_equal(got, want)


def test_everything_wrong_is_listed_at_once():
    weights = generator()
    del weights["blocks.1.mlp.w3.bias"]
    weights["blocks.0.attn.proj.bias"] = np.zeros(47, np.float32)
    weights["blocks.0.norm1.weight"] = np.ones(48, np.int32)
    weights["feat_rope.freqs_sin"] = weights["feat_rope.freqs_sin"] + np.float32(0.01)
    weights["head.weight"] = np.zeros((3, 2), np.float32)
    with pytest.raises(ConversionError) as caught:
        params_from_torch("lightningdit", weights)
    assert isinstance(caught.value, ValueError)
    assert caught.value.problems == [
        "missing: blocks.1.mlp.w3.bias (48,)",
        "unknown: head.weight (3, 2)",
        "wrong shape: blocks.0.attn.proj.bias (47,), expected (48,)",
        "wrong type: blocks.0.norm1.weight int32, expected floating point",
        "wrong values: feat_rope.freqs_sin differs by 0.01 from the table we compute",
    ]
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_table_that_claims_a_tensor_twice_is_refused():
    keymap = KeyMap((Rule("weight", "(.)/scale", Flat()),))
    tree = {"a": {"scale": np.ones(2)}, "b": {"scale": np.ones(2)}}
    message = "claimed twice: weight, by a/scale and b/scale"
    assert keymap.check({"weight": np.ones(2)}, tree) == {"weight": message}
    for convert in (keymap.to_torch, keymap.torch_shapes):
        with pytest.raises(ConversionError, match=message):
            convert(tree)
    with pytest.raises(ValueError, match="no rule of the key map matches our parameter 'c'"):
        keymap.torch_shapes({"c": np.ones(2)})


def test_a_swapped_pair_of_sizes_is_a_wrong_shape():
    """As many elements, and a transpose would make it fit."""
    weights = generator()
    weights["blocks.0.mlp.w3.weight"] = weights["blocks.0.mlp.w3.weight"].T
    with pytest.raises(ConversionError, match=r"w3.weight \(128, 48\), expected \(48, 128\)"):
        params_from_torch("lightningdit", weights)


def test_training_parts_of_a_tokenizer_are_left_out_and_others_refused():
    weights = golden.load_weights("vae")
    extra = ("loss.logvar", "loss.discriminator.main.0.weight", "linear_proj.weight")
    extra = {key: np.zeros(3, np.float32) for key in (*extra, "foundation_model.model.norm.bias")}
    _, params = params_from_torch("vavae", weights | extra)
    chex.assert_trees_all_equal(params, params_from_torch("vavae", weights)[1])
    with pytest.raises(ConversionError, match=r"unknown: encoder.temb.weight \(3,\)"):
        params_from_torch("vavae", weights | {"encoder.temb.weight": np.zeros(3, np.float32)})


def test_an_autoencoder_with_ldm_s_names_but_without_quant_conv():
    """As the one of FLUX; encoder and decoder stay what they are."""
    weights = golden.load_weights("vae")
    whole, params = params_from_torch("vavae", weights)
    bare = {key: value for key, value in weights.items() if "quant_conv." not in key}
    config, rest = params_from_torch("vavae", bare)
    assert config == dataclasses.replace(whole, quant_conv=False)
    for part in ("encoder", "decoder"):
        chex.assert_trees_all_equal(rest.pop(part), params[part])
    assert not rest
    bare["quant_conv.weight"] = weights["quant_conv.weight"]
    with pytest.raises(ConversionError, match=r"missing: post_quant_conv.weight"):
        params_from_torch("vavae", bare)


def test_number_of_heads():
    plain = generator("lightningdit_plain_dit")
    with pytest.raises(
        ConversionError, match=r"number of heads \(hidden_size 36\); give num_heads"
    ):
        params_from_torch("lightningdit", plain)
    with pytest.raises(ConversionError, match="num_heads is 3, but heads are 12 of 48 wide"):
        params_from_torch("lightningdit", generator(), hints=Hints(num_heads=3))
    wide = {k: tuple(768 if n == 36 else n for n in v.shape) for k, v in plain.items()}
    assert infer_config("lightningdit", structs(wide)).num_heads == 12  # that of B


def vit_of(width, patch=14):
    """A MAE encoder of two blocks without values."""
    config = dataclasses.replace(
        tiny.VIT, hidden_size=width, patch_size=patch, mlp_hidden=4 * width, num_heads=1
    )
    return structs(torch_shapes("mae", dataclasses.replace(config, layer_scale=False)))


# facebookresearch/mae's models_mae.py, dinov2/models/vision_transformer.py, timm's deit_tiny.
@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1536, 24)]
)
def test_a_published_vit_has_its_published_heads(width, heads):
    assert infer_config("mae", vit_of(width)).num_heads == heads


@pytest.mark.parametrize("width", [64, 512, 896, 36])
def test_the_heads_of_another_vit_are_asked_for(width):
    with pytest.raises(ConversionError, match=rf"hidden_size {width}\); give .*--num-heads"):
        infer_config("mae", vit_of(width))
    assert infer_config("mae", vit_of(width), Hints(num_heads=4)).num_heads == 4
    for heads in (0, 5):
        with pytest.raises(ConversionError, match=rf"num_heads is {heads}; expected a divisor"):
            infer_config("mae", vit_of(width), Hints(num_heads=heads))


@pytest.mark.parametrize("ratio", [4.0, 2.0, 8 / 3, 1.7])
@pytest.mark.parametrize("use_swiglu", [True, False])
def test_mlp_width_survives_the_round_trip(ratio, use_swiglu):
    config, _ = params_from_torch("lightningdit", generator())
    config = dataclasses.replace(config, mlp_ratio=ratio, use_swiglu=use_swiglu)
    inferred = infer_config("lightningdit", structs(torch_shapes("lightningdit", config)))
    assert inferred.mlp_hidden == config.mlp_hidden
    assert dataclasses.replace(inferred, mlp_ratio=ratio) == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pos_embed", None, "missing: pos_embed"),
        ("pos_embed", (1, 63, 48), r"pos_embed \(1, 63, 48\), expected a square of tokens"),
        ("x_embedder.proj.weight", (48, 8), r"\(48, 8\), expected 4 axes"),
        ("blocks.0.adaLN_modulation.1.weight", None, "missing: blocks.0.adaLN_modulation.1.weight"),
    ],
)
def test_tensors_that_tell_the_architecture(key, value, message):
    weights = generator()
    del weights[key]
    if value is not None:
        weights[key] = np.zeros(value, np.float32)
    with pytest.raises(ConversionError, match=message):
        params_from_torch("lightningdit", weights)


def test_empty_and_foreign_state_dicts():
    for kind, key in (("lightningdit", "x_embedder.proj.weight"), ("vavae", "encoder.conv_in")):
        with pytest.raises(ConversionError, match=f"do not fit a {kind}:\n(.*\n)*  missing: {key}"):
            params_from_torch(kind, {})
    with pytest.raises(ValueError, match="unknown kind 'vae'; did you mean 'vavae'"):
        params_from_torch("vae", {})


def test_parameters_that_do_not_fit_the_config():
    config, params = params_from_torch("vavae", golden.load_weights("vae"))
    del params["quant_conv"]["bias"]
    params["post_quant_conv"]["kernel"] = np.zeros((1, 1, 4, 5), np.float32)
    params["extra"] = np.zeros(2, np.float32)
    with pytest.raises(ConversionError) as caught:
        params_to_torch("vavae", config, params)
    assert caught.value.problems == [
        "missing: quant_conv/bias (8,)",
        "unknown: extra (2,)",
        "wrong shape: post_quant_conv/kernel (1, 1, 4, 5), expected (1, 1, 4, 4)",
    ]
