"""DINOv3, SigLIP 2, CLIP, ConvNeXt V2 against what timm and transformers compute; their names."""

import dataclasses
import re

import chex
import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from lightningdit_jax.assembly.registry import MODELS, Role, abstract_model, architecture, kinds_of
from lightningdit_jax.convert.convert import params_from_torch, params_to_torch
from lightningdit_jax.convert.keymap import ConversionError, Hints, StateShapes
from lightningdit_jax.convert.kinds import common_prefix, detect_kind, find_kind
from lightningdit_jax.models.convnext import ConvNeXtV2Config
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.vit_config import ViTConfig
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from tests import golden

CASES = (
    "clip_timm",
    "clip_transformers",
    "siglip2_timm",
    "siglip2_transformers",
    "dinov2_transformers",
    "dinov3_timm",
    "dinov3_transformers",
    "convnextv2_timm",
    "convnextv2_transformers",
)


def convert(kind, tensors, act_fn=None):
    """(config, params) of a state dict, as the converter makes them."""
    hints = Hints() if kind == "convnextv2" else Hints(num_heads=2, act_fn=act_fn)
    assert (detect_kind(tensors), common_prefix(tensors, "")) == (kind, "")
    return params_from_torch(kind, find_kind(kind).select(tensors), hints=hints)


@pytest.mark.parametrize("name", CASES)
def test_outputs_of_the_program_that_the_weights_are_of(name):
    kind = name.partition("_")[0]
    data, entry = golden.load(f"network_{name}"), golden.index()[f"network_{name}"]
    act_fn = entry["config"]["arguments"].get("hidden_act")
    config, params = convert(kind, golden.load_weights(f"network_{name}"), act_fn)
    graphdef, _ = abstract_model(kind, config)

    @jax.jit
    def run(params, images):
        module = nnx.merge(graphdef, params)
        outputs = {"patches": module(images), "pooled": module.pooled(images)}
        if kind == "clip":
            outputs["embedding"] = module.embedding(images)
        return outputs

    got = run(params, golden.to_nhwc(data["in.x"]))
    assert {f"out.{key}" for key in got} == {key for key in data if key.startswith("out.")}
    got["patches"] = golden.to_nchw(got["patches"])
    for key, value in got.items():
        golden.assert_close(value, data[f"out.{key}"], entry["tolerance"])


@pytest.mark.parametrize("name", ["clip_timm", "siglip2_timm", "convnextv2_timm"])
def test_back_come_the_tensors_that_timm_loads(name):
    kind = name.partition("_")[0]
    theirs = golden.load_weights(f"network_{name}")
    config, params = convert(kind, theirs)
    back = params_to_torch(kind, config, params)
    left_out = find_kind(kind).keymap(config).left_out(theirs)
    assert sum(left_out.values()) == (2 if kind == "convnextv2" else 0)  # its head's norm
    chex.assert_trees_all_equal(back, {key: theirs[key] for key in back})
    assert len(back) == len(theirs) - sum(left_out.values())


def renamed(tensors, *pairs):
    """The tensors by other names: (pattern, replacement) one after the other."""
    result = {}
    for key, value in tensors.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


def assert_same(kind, tensors, want):
    config, params = convert(kind, tensors)
    assert config == want[0]
    chex.assert_trees_all_equal(params, want[1])


def test_openai_s_names_beside_a_text_tower():
    timm = golden.load_weights("network_clip_timm")
    blocks = r"visual.transformer.resblocks."
    theirs = renamed(
        timm,
        (r"^blocks\.", blocks),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.qkv\.", ".in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        (r"^norm_pre", "visual.ln_pre"),
        (r"^norm\.", "visual.ln_post."),
        (r"^patch_embed\.proj", "visual.conv1"),
    )
    del theirs["head.bias"]
    theirs["visual.proj"] = theirs.pop("head.weight").T
    theirs["visual.class_embedding"] = theirs.pop("cls_token")[0, 0]
    theirs["visual.positional_embedding"] = theirs.pop("pos_embed")[0]
    text = {"transformer.resblocks.0.ln_1.weight": 4, "positional_embedding": 3, "logit_scale": 1}
    theirs |= {key: np.ones(size, np.float32) for key, size in text.items()}
    assert_same("clip", theirs, convert("clip", timm))


def test_a_bias_of_clip_s_projection_that_is_not_zero_is_refused():
    theirs = golden.load_weights("network_clip_timm")
    theirs["head.bias"] = theirs["head.bias"] + 1
    with pytest.raises(ConversionError, match=r"wrong values: head\.bias"):
        convert("clip", theirs)


def test_names_of_the_hub_s_files_and_of_open_clip():
    newer = golden.load_weights("network_siglip2_transformers")
    want = convert("siglip2", newer)
    text = {"text_model.head.bias": np.ones(3, np.float32), "logit_bias": np.ones(1, np.float32)}
    assert_same("siglip2", renamed(newer, ("^", "vision_model.")) | text, want)

    timm = golden.load_weights("network_siglip2_timm")
    in_open_clip = renamed(timm, ("^", "visual.trunk.")) | {"text.ln_final.bias": np.ones(3)}
    assert_same("siglip2", in_open_clip, convert("siglip2", timm))

    newer = golden.load_weights("network_dinov2_transformers")
    older = renamed(
        newer,
        (r"\.attention\.o_proj", ".attention.output.dense"),
        (r"\.attention\.q_proj", ".attention.attention.query"),
        (r"\.attention\.k_proj", ".attention.attention.key"),
        (r"\.attention\.v_proj", ".attention.attention.value"),
        ("down_proj", "weights_out"),
    )
    for key in [key for key in older if "gate_proj" in key]:
        parts = [older.pop(key), older.pop(key.replace("gate", "up"))]
        older[key.replace("gate_proj", "weights_in")] = np.concatenate(parts)
    assert_same("dinov2", older, convert("dinov2", newer))

    newer = golden.load_weights("network_dinov3_transformers")
    assert_same("dinov3", renamed(newer, (r"^model\.layer", "layer")), convert("dinov3", newer))


def test_dinov3_s_names_are_its_authors_there_and_back():
    timm = golden.load_weights("network_dinov3_timm")
    config, params = want = convert("dinov3", timm)
    theirs = renamed(
        timm,
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        (r"^reg_token$", "storage_tokens"),
        (r"fc1_g", "w1"),
        (r"fc1_x", "w2"),
        (r"\.fc2\.", ".w3."),
    )
    for i in range(2):
        q, v = (theirs.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        theirs[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
    chex.assert_trees_all_equal(params_to_torch("dinov3", config, params), theirs)
    dim = config.hidden_size
    theirs["rope_embed.periods"], theirs["mask_token"] = np.ones(2), np.ones((1, dim))
    for i in range(2):  # what is masked is whatever it was drawn as
        theirs[f"blocks.{i}.attn.qkv.bias"][dim : 2 * dim] = 7.0
        theirs[f"blocks.{i}.attn.qkv.bias_mask"] = np.ones(3 * dim, np.float32)
    assert_same("dinov3", theirs, want)


def test_convnext_v2_s_own_names():
    timm = golden.load_weights("network_convnextv2_timm")
    theirs = renamed(
        timm,
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"mlp\.grn\.weight", "grn.gamma"),
        (r"mlp\.grn\.bias", "grn.beta"),
        (r"^head\.norm", "norm"),
    )
    theirs = {k: v[None, None, None] if ".grn." in k else v for k, v in theirs.items()}
    assert_same("convnextv2", theirs, convert("convnextv2", timm))


def test_clip_s_activation_is_that_of_the_published_width_or_given():
    weights = golden.load_weights("network_clip_timm")
    assert convert("clip", weights)[0].activation == "quick_gelu"
    assert convert("clip", weights, act_fn="gelu")[0].activation == "gelu"
    with pytest.raises(ConversionError, match="unknown activation 'relu'"):
        convert("clip", weights, act_fn="relu")
    huge = jax.ShapeDtypeStruct((1280, 3, 14, 14), np.float32)
    weights |= {"patch_embed.proj.weight": huge}
    shapes = StateShapes({key: value.shape for key, value in weights.items()})
    assert find_kind("clip").infer(shapes, Hints()).activation == "gelu"


def test_architectures_that_do_not_fit_are_named():
    fields = dict.fromkeys(("hidden_size", "depth", "num_heads", "mlp_hidden", "patch_size"), 2)
    fields |= {"layer_scale": False, "num_registers": 0}
    with pytest.raises(ValueError, match="pos_embed_grid is 0; expected at least 1"):
        ViTConfig(**fields, pos_embed_grid=0, class_pos_embed=False)
    with pytest.raises(ValueError, match="expected False without a class token"):
        ViTConfig(**fields, pos_embed_grid=3, class_pos_embed=True, class_token=False)
    with pytest.raises(ValueError, match="rotary positions need a multiple of 4"):
        ViTConfig(**fields, pos_embed_grid=0, class_pos_embed=False, rotary_base=100.0)
    with pytest.raises(ValueError, match="expected as many of one"):
        ConvNeXtV2Config((1, 1), (4,))
    with pytest.raises(ValueError, match="dims is"):
        ConvNeXtV2Config((1, 1), (4, 0))


def test_without_a_projection_there_is_no_embedding_and_sides_are_checked():
    vit = nnx.merge(*abstract_model("dinov3", MODELS["dinov3"].published))
    with pytest.raises(ValueError, match="no projection"):
        vit.embedding(np.zeros((1, 16, 16, 3), np.float32))
    convnext = nnx.merge(*abstract_model("convnextv2", ConvNeXtV2Config((1, 1), (4, 4))))
    with pytest.raises(ValueError, match="12 x 16; expected sides that are multiples of 8"):
        convnext(np.zeros((1, 12, 16, 3), np.float32))
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        convnext(np.zeros((1, 16, 16, 1), np.float32))


TEACHERS = {  # patch and width as published
    "dinov2": (14, 1024),
    "mae": (16, 1024),
    "dinov3": (16, 1024),
    "siglip2": (16, 1152),
    "clip": (14, 1024),
    "convnextv2": (32, 1024),
}


def test_every_teacher_has_a_feature_of_each_patch_and_of_nothing_else():
    assert {*TEACHERS, "vit"} == set(kinds_of(Role.FOUNDATION))
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
    for kind, (patch, width) in TEACHERS.items():
        config, normalization = MODELS[kind].published, MODELS[kind].normalization
        assert (config.patch_size, config.hidden_size) == (patch, width)
        if kind == "dinov2":
            config = dataclasses.replace(config, num_registers=4, class_pos_embed=False)
        graphdef, params = abstract_model(kind, config)

        def features(params, images, graphdef=graphdef, normalization=normalization):
            model = nnx.merge(graphdef, params)
            return foundation_features(model, images, (16, 16), normalization)

        assert jax.eval_shape(features, params, images).shape == (1, 16, 16, width)
    assert MODELS["siglip2"].normalization == ((0.5,) * 3, (0.5,) * 3)
    # as OpenAI's clip.py has them
    assert MODELS["clip"].normalization.mean == (0.48145466, 0.4578275, 0.40821073)
    assert MODELS["clip"].normalization.std == (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_is_cut_over_many_devices(kind):
    mesh = AbstractMesh((1, 64, 1), ("data", "fsdp", "tensor"))
    _, params = abstract_model(kind, MODELS[kind].published)
    leaves = jax.tree.leaves(abstract_on_mesh(params, mesh, MODELS[kind].rules))
    part = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    assert part < 0.08 * sum(leaf.size for leaf in leaves)


def test_a_checkpoint_of_before_names_fewer_fields():
    fields = dataclasses.asdict(MODELS["dinov2"].published)
    before = [field.name for field in dataclasses.fields(ViTConfig)][:10]
    assert before[-1] == "use_swiglu"
    less = {name: fields[name] for name in before}
    assert architecture("dinov2", less) == MODELS["dinov2"].published
