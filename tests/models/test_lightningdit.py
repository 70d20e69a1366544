"""LightningDiT against the release's outputs and against its own invariants."""

import dataclasses
import functools
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import abstract_params, params_from_torch
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.layers import modulated
from lightningdit_jax.models.lightningdit import REMAT, LightningDiT
from lightningdit_jax.models.lightningdit_config import VARIANTS, LightningDiTConfig, variant_dims
from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.models.rngs import CountedRngs
from tests import golden, tiny

FORWARD = [
    "lightningdit_default",
    "lightningdit_qknorm",
    "lightningdit_qknorm_layernorm",
    "lightningdit_plain_dit",
    "lightningdit_wo_shift",
    "lightningdit_patch2",
    "lightningdit_learn_sigma",
    "lightningdit_no_null_class",
    "lightningdit_grid16_1000cls",
    "lightningdit_pos_embed_loaded",
]

TINY = tiny.dit_config(in_channels=3, depth=4, num_classes=5, use_qknorm=True)


@functools.cache
def golden_model(name):
    entry = golden.index()[name]
    given = entry["config"].get("model_config", entry["config"])
    config, params = params_from_torch(
        "lightningdit",
        golden.load_weights(name),
        hints=Hints(given["num_heads"], given.get("class_dropout_prob", 0.1) > 0),
    )
    # The architecture read from the weights is the one the case was made with.
    assert given.items() <= dataclasses.asdict(config).items()
    return nnx.merge(graphdef_of(config), params)


def graphdef_of(config, **options):
    return nnx.graphdef(
        nnx.eval_shape(lambda: LightningDiT(config, **options, rngs=CountedRngs(0)))
    )


@functools.cache
def tiny():
    """Parameters with nothing at zero, and a batch."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = jax.tree.map(
        lambda leaf: 0.3 * draw(*leaf.shape), abstract_params("lightningdit", TINY)
    )
    return params, (draw(2, 4, 4, 3), jnp.array([0.2, 0.9]), jnp.array([1, 5]))


@functools.cache
def tiny_value_and_grad(**options):
    """Output, and gradients of its sum of squares."""
    graphdef = graphdef_of(TINY, **options)
    params, batch = tiny()

    def loss(params):
        out = nnx.merge(graphdef, params)(*batch)
        return jnp.square(out).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return out, grads


def assert_same(got, want):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()),
        got,
        want,
    )


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name):
    case, model = golden.load(name), golden_model(name)
    graphdef, params = nnx.split(model)
    out = jax.jit(lambda params, *batch: nnx.merge(graphdef, params)(*batch))(
        params, golden.to_nhwc(case["in.x"]), case["in.t"], case["in.y"]
    )
    assert out.dtype == jnp.float32
    golden.assert_close(golden.to_nchw(out), case["out.y"], golden.index()[name]["tolerance"])


def test_intermediate_activations():
    name = "lightningdit_default"
    case, model = golden.load(name), golden_model(name)
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params, x, t, y):
        model = nnx.merge(graphdef, params)
        block_graphdef, stacked = nnx.split(model.blocks)
        block0, block1 = (
            nnx.merge(block_graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
            for i in (0, 1)
        )
        tokens, c = model.embed_latents(x), model.embed_condition(t, y)
        modulation = block0.adaLN_modulation(nnx.silu(c))[:, :, None]
        shift1, scale1, gate1, shift2, scale2, _ = modulation.swapaxes(0, 1)
        attn = block0.attn(modulated(block0.norm1, tokens, shift1, scale1))
        before_mlp = tokens + gate1 * attn
        x0 = block0(tokens, c)
        x1 = block1(x0, c)
        return {
            "x_embedder": tokens - model.pos_embed[...],
            "t_emb": model.t_embedder(t),
            "y_emb": model.y_embedder(y),
            "block0.norm1": block0.norm1(tokens),
            "block0.attn": attn,
            "block0.mlp": block0.mlp(modulated(block0.norm2, before_mlp, shift2, scale2)),
            "block0": x0,
            "block1": x1,
            "final_layer": model.final_layer(x1, c),
        }

    got = run(params, golden.to_nhwc(case["in.x"])[:1], case["in.t"][:1], case["in.y"][:1])
    assert {f"mid.{key}" for key in got} == {key for key in case if key.startswith("mid.")}
    for key, value in got.items():
        golden.assert_close(value, case[f"mid.{key}"], golden.index()[name]["tolerance"])


def test_label_embedder():
    """Dropping a label is giving the null class, which is the caller's doing."""
    case, model = golden.load("label_embedder"), golden_model("label_embedder")
    tolerance = golden.index()["label_embedder"]["tolerance"]
    y = case["in.y"]
    golden.assert_close(model.y_embedder(y), case["out.emb"], tolerance)
    dropped = np.where(case["in.force_drop_ids"] == 1, model.config.num_classes, y)
    golden.assert_close(model.y_embedder(dropped), case["out.emb_forced"], tolerance)


def test_position_embedding_alone_is_frozen():
    _, grads = tiny_value_and_grad()
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.asarray(grad).any() == (path[0].key != "pos_embed"), path


def test_initialization():
    config = dataclasses.replace(TINY, hidden_size=64, depth=2, patch_size=2, num_heads=4)
    model = LightningDiT(config, rngs=nnx.Rngs(1))
    out = model(*tiny()[1])
    assert out.dtype == jnp.float32 and not np.asarray(out).any()  # exactly zero
    assert nnx.graphdef(model) == graphdef_of(config)  # as abstract models are merged with weights
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, abstract_params("lightningdit", config)
    )
    dim, hidden, patch = 64, config.mlp_hidden, 12
    blocks = params["blocks"]
    fans = {  # inputs and outputs of the matrices as the release fuses them
        (dim, 3 * dim): blocks["attn"]["qkv"],
        (dim, dim): blocks["attn"]["proj"],
        (dim, 2 * hidden): blocks["mlp"]["w12"],
        (hidden, dim): blocks["mlp"]["w3"],
        (patch, dim): params["x_embedder"],
    }
    for (fan_in, fan_out), layer in fans.items():
        limit, kernel = math.sqrt(6 / (fan_in + fan_out)), np.asarray(layer["kernel"])
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.05)
        assert not np.asarray(layer["bias"]).any()
    normals = [params["y_embedder"]["embedding"]]
    normals += [params["t_embedder"][fc]["kernel"] for fc in ("fc1", "fc2")]
    for normal in normals:
        np.testing.assert_allclose(np.std(normal), 0.02, rtol=0.1)
    zero = [blocks["adaLN_modulation"], params["final_layer"]["adaLN_modulation"]]
    zero += [params["final_layer"]["linear"]]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(zero))
    qkv = np.asarray(blocks["attn"]["qkv"]["kernel"])
    assert np.abs(qkv[0] - qkv[1]).max() > 0.1 and qkv.dtype == np.float32


def test_remat_changes_nothing():
    assert_same(tiny_value_and_grad(remat="attention_mlp"), tiny_value_and_grad())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [*({"remat": name} for name in REMAT[1:]), {"scan_unroll": TINY.depth}]
)
def test_remat_policies_and_unrolling_change_nothing(options):
    assert_same(tiny_value_and_grad(**options), tiny_value_and_grad())


def saved_shapes(remat):
    """Stacked activations that the scan over blocks hands to the backward pass, batch of 7."""

    def pullback(tokens, c, params):
        return jax.vjp(nnx.merge(graphdef_of(TINY, remat=remat), params).run_blocks, tokens, c)[1]

    kept = jax.eval_shape(pullback, jnp.ones((7, 16, 16)), jnp.ones((7, 16)), tiny()[0])
    shapes = [leaf.shape for leaf in jax.tree.leaves(kept)]
    return sorted(shape[1:] for shape in shapes if shape[:2] == (TINY.depth, 7))


def test_remat_keeps_what_its_name_says():
    carry, heads = (7, 16, 16), (7, 16, 2, 8)
    attention = [heads] * 6  # q and k before and after their norm, v, the output
    mlp = [(7, 16, TINY.mlp_hidden)] * 2
    assert saved_shapes("block") == [carry]
    assert saved_shapes("attention") == sorted([carry, *attention])
    assert saved_shapes("attention_mlp") == sorted([carry, *attention, *mlp])
    assert saved_shapes("dots") == sorted([*[carry] * 3, *attention, *mlp])
    assert len(saved_shapes("none")) > len(saved_shapes("dots"))
    for remat in REMAT:
        assert (7, 2, 16, 16) not in saved_shapes(remat)  # attention weights


@functools.cache
def tiny_output(**options):
    params, batch = tiny()
    graphdef = graphdef_of(TINY, **options)
    return jax.jit(lambda params, *batch: nnx.merge(graphdef, params)(*batch))(params, *batch)


def test_unrolling_changes_nothing():
    assert_same(tiny_output(scan_unroll=2), tiny_output())


def test_bfloat16_is_close_and_ends_in_float32():
    got, want = tiny_output(dtype=jnp.bfloat16), tiny_output()
    assert got.dtype == want.dtype == jnp.float32
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 1e-4 < error < 0.03  # above: bfloat16 was used; below: used well


def test_bfloat16_keeps_softmax_and_norm_statistics_in_float32():
    graphdef = graphdef_of(dataclasses.replace(TINY, depth=1), dtype=jnp.bfloat16)
    params, batch = tiny()
    params = {**params, "blocks": jax.tree.map(lambda leaf: leaf[:1], params["blocks"])}
    text = str(jax.make_jaxpr(lambda p: nnx.merge(graphdef, p)(*batch))(params))
    for operation in ("exp", "rsqrt", "cos", "sin", "reduce_sum", "reduce_max"):
        lines = [
            line
            for line in text.splitlines()
            if f" = {operation}[" in line or f" = {operation} " in line
        ]
        assert lines, operation
        assert not any(":bf16" in line.partition(" = ")[0] for line in lines), operation


def test_constrain_sees_the_tokens_after_embedding_and_after_each_block():
    seen = []

    def constrain(x):
        seen.append((x.shape, x.dtype))
        return x

    params, batch = tiny()
    graphdef = graphdef_of(TINY, constrain=constrain, dtype=jnp.bfloat16)
    jax.eval_shape(nnx.merge(graphdef, params), *batch)
    assert seen == [((2, 16, 16), jnp.bfloat16)] * 2  # the scan traces its body once


def imagenet_config(variant, **flags):
    """The release's training config for 256x256 images."""
    recipe = {"use_qknorm": False, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True}
    return LightningDiTConfig(
        **variant_dims(variant),
        **{"input_size": 16, "in_channels": 32, "num_classes": 1000, "wo_shift": False},
        **{"mlp_ratio": 4.0, "class_dropout_prob": 0.1, "learn_sigma": False},
        **(recipe | flags),
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_abstractly_with_the_release_number_of_parameters(variant):
    params = abstract_params("lightningdit", imagenet_config(variant))
    path = golden.GOLDEN / "manifests" / f"lightningdit_{variant.replace('/', '_')}.json"
    if path.exists():  # the release lacks L/1, and two variants have no manifest
        assert count(params) == json.loads(path.read_text())["param_count"]
    assert count(params) > 1e8


def test_xl1_has_the_number_of_parameters_in_the_release_log():
    assert count(abstract_params("lightningdit", imagenet_config("XL/1"))) == 675_256_736


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown variant 'XL/3'; did you mean 'XL/2'.*1p6B/2"):
        variant_dims("XL/3")
    with pytest.raises(ValueError, match="unknown remat policy 'blocks'; did you mean 'block'"):
        LightningDiT(TINY, remat="blocks", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"unknown attention impl.* 'flash'.*auto, xla, cudnn"):
        LightningDiT(TINY, attention="flash", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 18, "num_heads": 4},
            "hidden_size is 18; expected a multiple of num_heads=4",
        ),
        ({"hidden_size": 18, "num_heads": 3, "use_rope": False}, "hidden_size is 18; .* of 4"),
        ({"hidden_size": 24, "num_heads": 4}, "hidden_size / num_heads is 6; with use_rope"),
        ({"patch_size": 3}, "input_size is 4; expected a multiple of patch_size=3"),
        ({"depth": 0}, "depth is 0; expected at least 1"),
        ({"class_dropout_prob": 1.0}, "class_dropout_prob is 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
    ],
)
def test_bad_architectures(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


TWO_HEADS = dataclasses.replace(TINY, aux_head_depth=2)


@functools.cache
def two_heads():
    """Parameters with nothing at zero, those of `tiny` but for the second head."""
    rng = np.random.default_rng(1)
    head = abstract_params("lightningdit", TWO_HEADS)["aux_head"]
    return tiny()[0] | {
        "aux_head": jax.tree.map(
            lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), head
        )
    }


@functools.cache
def two_outputs():
    run = jax.jit(lambda p, *x: nnx.merge(graphdef_of(TWO_HEADS), p).with_aux_head(*x))
    return run(two_heads(), *tiny()[1])


def test_a_second_head_changes_no_bit_of_the_first():
    np.testing.assert_array_equal(two_outputs()[0], tiny_output())
    fresh = nnx.to_pure_dict(nnx.state(LightningDiT(TWO_HEADS, rngs=nnx.Rngs(3)), nnx.Param))
    head = fresh.pop("aux_head")
    plain = nnx.to_pure_dict(nnx.state(LightningDiT(TINY, rngs=nnx.Rngs(3)), nnx.Param))
    chex.assert_trees_all_equal(fresh, plain)
    for layer, outputs in (("linear", 3), ("adaLN_modulation", 2 * 16)):  # xavier, as published
        limit = math.sqrt(6 / (16 + outputs))
        assert 0.8 * limit < np.abs(head[layer]["kernel"]).max() <= limit
        assert not np.asarray(head[layer]["bias"]).any()


def test_the_second_head_speaks_for_the_blocks_before_it():
    """A model of those blocks alone, whose final layer it is."""
    params = two_heads() | {"final_layer": two_heads()["aux_head"]}
    params["blocks"] = jax.tree.map(lambda leaf: leaf[:2], params["blocks"])
    del params["aux_head"]
    graphdef = graphdef_of(dataclasses.replace(TINY, depth=2))
    want = jax.jit(lambda p, *x: nnx.merge(graphdef, p)(*x))(params, *tiny()[1])
    np.testing.assert_allclose(two_outputs()[1], want, rtol=1e-5, atol=1e-5)
    assert np.abs(want - two_outputs()[0]).max() > 0.1


def test_flops_of_a_second_head_are_those_of_its_products():
    params, batch = two_heads(), tiny()[1]

    def count(name):
        return matmul_flops(
            lambda p, *x: getattr(nnx.merge(graphdef_of(TWO_HEADS), p), name)(*x), params, *batch
        )

    added = count("with_aux_head") - count("__call__")
    both, one = (forward_flops(TWO_HEADS, aux_head=aux) for aux in (True, False))
    assert len(batch[0]) * (both - one) == added > 0
    assert one == forward_flops(TINY) == forward_flops(TINY, aux_head=True)


def test_a_second_head_that_is_not_there_is_refused():
    for depth in (-1, 4):
        message = f"aux_head_depth is {depth}; expected 0, no second head, or .* below depth=4"
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TINY, aux_head_depth=depth)
    with pytest.raises(ValueError, match="the model has no second head"):
        LightningDiT(TINY, rngs=nnx.Rngs(0)).with_aux_head(*tiny()[1])


def test_inputs_of_another_shape_are_refused():
    model, (_, t, y) = nnx.merge(graphdef_of(TINY), tiny()[0]), tiny()[1]
    for shape in ((2, 8, 8, 3), (2, 4, 4, 4), (4, 4, 3)):
        with pytest.raises(ValueError, match=r"expected \[B, H, W, C\] with \(4, 4, 3\)"):
            model(jnp.zeros(shape), t, y)
    for times, labels in ((t[:1], y), (t, y[:1]), (t[0], y[0])):  # all of which would broadcast
        with pytest.raises(
            ValueError, match=r"2 rows, t has shape \(.*expected a time and a label"
        ):
            model(jnp.zeros((2, 4, 4, 3)), times, labels)
