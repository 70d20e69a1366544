"""DINOv2 and MAE against timm's outputs, as the release calls them."""

import dataclasses
import functools
import re

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import infer_config, params_from_torch
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.convert.vit_names import timm_names
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vit import (
    ViT,
    resample_positions,
    resize_bicubic,
    resize_bilinear,
)
from lightningdit_jax.models.vit_config import ViTConfig
from tests import golden


@functools.cache
def model(name, kind):
    given = golden.index()[name]["config"]
    config, params = params_from_torch(
        kind, golden.load_weights(name), hints=Hints(given["num_heads"])
    )
    assert (config.patch_size, config.depth) == (given["patch_size"], given["depth"])
    assert config.hidden_size == given["embed_dim"]
    assert config.layer_scale == (given["init_values"] is not None)
    assert config.pos_embed_grid == given["img_size"] // given["patch_size"]
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: ViT(config, rngs=CountedRngs(0))))
    return nnx.merge(graphdef, params)


def test_dinov2_with_resampled_positions():
    data, entry = golden.load("foundation_dinov2"), golden.index()["foundation_dinov2"]
    resized = resize_bilinear(golden.to_nhwc(data["in.x"]), (56, 56))
    golden.assert_close(
        resized, golden.to_nhwc(data["mid.interpolated"]), {"atol": 2e-6, "rtol": 1e-5}
    )
    got = model("foundation_dinov2", "dinov2")(resized)
    golden.assert_close(golden.to_nchw(got), data["out.feature"], entry["tolerance"])


def test_dinov2_at_the_release_s_size():
    name = "foundation_dinov2_realsize"
    data, entry = golden.load(name), golden.index()[name]
    images = golden.to_nhwc(data["in.u8"]).repeat(4, 1).repeat(4, 2) / np.float32(127.5) - 1
    got = model(name, "dinov2")(resize_bilinear(images, (224, 224)))
    golden.assert_close(golden.to_nchw(got), data["out.feature"], entry["tolerance"])


@pytest.mark.parametrize("suffix", ["", "_other_size"])
def test_mae(suffix):
    data, entry = golden.load("foundation_mae"), golden.index()["foundation_mae"]
    got = model("foundation_mae", "mae")(golden.to_nhwc(data["in.x" + suffix]))
    golden.assert_close(golden.to_nchw(got), data["out.feature" + suffix], entry["tolerance"])


@pytest.mark.parametrize(
    ("given", "want", "grid", "size"),
    [("p37", "p37_16", 37, (16, 16)), ("p5", "p5_7x4", 5, (7, 4)), ("p5", "p5", 5, (5, 5))],
)
def test_positions_on_another_grid(given, want, grid, size):
    data = golden.load("pos_embed_resample")
    wanted = data["in.p5" if want == given else f"out.{want}"][0]
    got = resample_positions(data[f"in.{given}"][0], grid, size)
    golden.assert_close(got, wanted, golden.index()["pos_embed_resample"]["tolerance"])


@pytest.mark.parametrize(("given", "want", "size"), [("x", "x_28", 28), ("x2", "x2_6x20", (6, 20))])
def test_resizing(given, want, size):
    data = golden.load("resize_bilinear")
    size = (size, size) if isinstance(size, int) else size
    got = resize_bilinear(golden.to_nhwc(data[f"in.{given}"]), size)
    tolerance = golden.index()["resize_bilinear"]["tolerance"]
    golden.assert_close(golden.to_nchw(got), data[f"out.{want}"], tolerance)


def test_registers_and_a_table_without_class_row_equal_the_same_model_spelled_out():
    """Class row folded into the class token, as timm does it for the register models."""
    plain = ViTConfig(4, 8, 1, 2, 16, 3, True, 2, True)
    folded = ViTConfig(4, 8, 1, 2, 16, 3, True, 2, False)
    vit = ViT(plain, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(vit))
    params["cls_token"] = params["cls_token"] + params["pos_embed"][0]
    params["pos_embed"] = params["pos_embed"][1:]
    other = nnx.merge(nnx.graphdef(ViT(folded, rngs=nnx.Rngs(1))), params)
    images = np.asarray(jax.random.normal(jax.random.key(0), (1, 12, 12, 3)))
    np.testing.assert_allclose(other(images), vit(images), atol=1e-6)


def test_names_of_dinov2_itself_with_registers_and_blocks_in_chunks():
    """Its checkpoints with registers keep the class row; timm's do not and call them otherwise."""
    theirs = golden.load_weights("foundation_dinov2")
    dim = theirs["cls_token"].shape[-1]
    registers = np.random.default_rng(0).normal(size=(1, 4, dim)).astype(np.float32)
    timm = theirs | {"reg_token": registers}
    own = {re.sub(r"^blocks\.", "blocks.0.", key): value for key, value in theirs.items()}
    own |= {"register_tokens": registers, "mask_token": np.zeros((1, dim), np.float32)}
    hints = Hints(golden.index()["foundation_dinov2"]["config"]["num_heads"])
    config, params = params_from_torch("dinov2", timm_names(own), hints=hints)
    want_config, want = params_from_torch("dinov2", timm, hints=hints)
    assert config == want_config
    assert (config.num_registers, config.class_pos_embed) == (4, True)
    np.testing.assert_array_equal(params["reg_token"], registers[0])
    chex.assert_trees_all_equal(params, want)

    timm["pos_embed"] = timm["pos_embed"][:, 1:]
    config, _ = params_from_torch("dinov2", timm, hints=hints)
    assert config == dataclasses.replace(want_config, class_pos_embed=False)


def test_bad_images_and_sizes_are_named():
    vit = model("foundation_mae", "mae")
    with pytest.raises(ValueError, match="90 x 80; expected sides that are multiples of 16"):
        vit(np.zeros((1, 90, 80, 3), np.float32))
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        vit(np.zeros((1, 80, 80, 1), np.float32))
    with pytest.raises(ValueError, match="hidden_size is 9; expected a multiple of num_heads, 2"):
        ViTConfig(4, 9, 1, 2, 16, 3, True, 0, True)


def gated_weights(dim=8, hidden=10, patch=2, grid=3, depth=2):
    """A random state dict with DINOv2's names, as of its giant."""
    rng = np.random.default_rng(0)
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + grid**2, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for i in range(depth):
        linears = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
        linears |= {"mlp.w12": (2 * hidden, dim), "mlp.w3": (dim, hidden)}
        for name, shape in linears.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{i}.{name}"] = (dim,)
        shapes |= {f"blocks.{i}.ls1.gamma": (dim,), f"blocks.{i}.ls2.gamma": (dim,)}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    return {key: rng.normal(size=s).astype(np.float32) for key, s in shapes.items()}


def gated_reference(weights, images, num_heads, depth=2):
    """DINOv2 as its paper and layers/swiglu_ffn.py have it: w3(silu(x1) * x2), x1, x2 = w12(x)."""
    w = {key: value.astype(np.float64) for key, value in weights.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(name, x):
        q, k, v = np.split(linear(f"{name}.qkv", x), 3, -1)
        heads = []
        for part in np.split(np.arange(x.shape[-1]), num_heads):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(len(part)))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        return linear(f"{name}.proj", np.concatenate(heads, -1))

    def mlp(name, x):
        x1, x2 = np.split(linear(f"{name}.w12", x), 2, -1)
        return linear(f"{name}.w3", x1 / (1 + np.exp(-x1)) * x2)

    kernel = w["patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    side = images.shape[1] // patch
    tokens = [
        np.einsum("hwc,dchw->d", images[0, patch * i :, patch * j :][:patch, :patch], kernel)
        for i in range(side)
        for j in range(side)
    ]
    x = np.stack(tokens) + w["patch_embed.proj.bias"]
    x = np.concatenate([w["cls_token"][0], x]) + w["pos_embed"][0]
    for i in range(depth):
        b = f"blocks.{i}"
        x = x + w[f"{b}.ls1.gamma"] * attention(f"{b}.attn", norm(f"{b}.norm1", x))
        x = x + w[f"{b}.ls2.gamma"] * mlp(f"{b}.mlp", norm(f"{b}.norm2", x))
    return norm("norm", x)[1:].reshape(1, side, side, -1)


def test_gated_mlps_of_dinov2_s_giant_equal_their_definition():
    weights = gated_weights()
    images = np.random.default_rng(1).normal(size=(1, 6, 6, 3)).astype(np.float32)
    config, params = params_from_torch("dinov2", timm_names(weights), hints=Hints(2))
    assert (config.use_swiglu, config.mlp_hidden) == (True, 10)
    vit = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: ViT(config, rngs=CountedRngs(0)))), params)
    want = gated_reference(weights, images, 2)
    np.testing.assert_allclose(vit(images), want, rtol=1e-4, atol=1e-4)

    # timm's names of the same tensors
    names = {"mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
    pattern = re.compile("|".join(names))
    timm = {pattern.sub(lambda m: names[m[0]], key): value for key, value in weights.items()}
    same_config, same = params_from_torch("dinov2", timm_names(timm), hints=Hints(2))
    assert same_config == config
    chex.assert_trees_all_equal(same, params)


def test_the_shapes_of_dinov2_s_giant_tell_its_architecture():
    """Published: 1536 wide, 40 blocks, 24 heads, gated MLPs of 4096 (dinov2/models)."""
    shapes = gated_weights(depth=1)
    sizes = {8: 1536, 24: 3 * 1536, 20: 8192, 10: 4096}
    giant = {
        re.sub(r"blocks\.0\.", f"blocks.{i}.", key): jax.ShapeDtypeStruct(
            tuple(sizes.get(n, n) for n in value.shape), np.float32
        )
        for i in range(40)
        for key, value in shapes.items()
    }
    giant["pos_embed"] = jax.ShapeDtypeStruct((1, 1370, 1536), np.float32)
    giant["patch_embed.proj.weight"] = jax.ShapeDtypeStruct((1536, 3, 14, 14), np.float32)
    config = infer_config("dinov2", timm_names(giant))
    assert config == ViTConfig(14, 1536, 40, 24, 4096, 37, True, 0, True, True)


def test_bicubic_resize_is_the_cubic_convolution_of_torch():
    """Keys' kernel of a = -0.75 at the output's centers, the border repeated."""

    def kernel(d):
        d = abs(d)
        if d <= 1:
            return 1.25 * d**3 - 2.25 * d**2 + 1
        return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    image = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    found = np.asarray(resize_bicubic(image, (7, 7)))
    for row, column in ((0, 0), (3, 5), (6, 2)):
        y, x = ((place + 0.5) * 8 / 7 - 0.5 for place in (row, column))
        want = sum(
            kernel(y - i) * kernel(x - j) * image[0, min(max(i, 0), 7), min(max(j, 0), 7), 0]
            for i in range(-3, 11)
            for j in range(-3, 11)
        )
        np.testing.assert_allclose(found[0, row, column, 0], want, atol=1e-5)
    assert resize_bicubic(image, (8, 8)) is image
