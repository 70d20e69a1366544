import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lightningdit_jax.assembly.registry import LIGHTNINGDIT_RULES, VAVAE_RULES
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import constrain_tokens, tree_shardings

L, D, H, F = 2, 64, 4, 168  # F as of SwiGLU: int(2/3 * 4 D), made even


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def dense(*shape, bias):
    return {"kernel": leaf(*shape), "bias": leaf(*bias)}


def dit_params(**blocks):
    """Paths and shapes of LightningDiT with every optional part of it."""
    hd = D // H
    return {
        "x_embedder": dense(8, D, bias=(D,)),
        "t_embedder": {"fc1": dense(256, D, bias=(D,)), "fc2": dense(D, D, bias=(D,))},
        "y_embedder": {"embedding": leaf(11, D)},
        "pos_embed": leaf(16, D),
        "blocks": {
            "norm1": {"scale": leaf(L, D)},
            "norm2": {"scale": leaf(L, D)},
            "attn": {
                "qkv": dense(L, D, 3, H, hd, bias=(L, 3, H, hd)),
                "q_norm": {"scale": leaf(L, hd), "bias": leaf(L, hd)},
                "k_norm": {"scale": leaf(L, hd), "bias": leaf(L, hd)},
                "proj": dense(L, H, hd, D, bias=(L, D)),
            },
            "mlp": {
                "w12": dense(L, D, 2, F, bias=(L, 2, F)),
                "w3": dense(L, F, D, bias=(L, D)),
                "fc1": dense(L, D, 4 * D, bias=(L, 4 * D)),
                "fc2": dense(L, 4 * D, D, bias=(L, D)),
            },
            "adaLN_modulation": dense(L, D, 6, D, bias=(L, 6, D)),
            **blocks,
        },
        **{
            head: {
                "norm_final": {"scale": leaf(D)},
                "linear": dense(D, 8, bias=(8,)),
                "adaLN_modulation": dense(D, 2, D, bias=(2, D)),
            }
            for head in ("final_layer", "aux_head")
        },
    }


def local_shapes(tree, mesh, rules):
    shardings = tree_shardings(tree, mesh, rules)
    return jax.tree.map(lambda x, s: s.shard_shape(x.shape), tree, shardings)


def test_fsdp_cuts_the_width_of_every_block_kernel():
    local = local_shapes(dit_params(), make_mesh(1, 8, 1), LIGHTNINGDIT_RULES)
    blocks = local["blocks"]
    assert blocks["attn"]["qkv"]["kernel"] == (L, D // 8, 3, H, D // H)
    assert blocks["attn"]["proj"]["kernel"] == (L, H, D // H, D // 8)
    assert blocks["mlp"]["w12"]["kernel"] == (L, D // 8, 2, F)
    assert blocks["mlp"]["w3"]["kernel"] == (L, F, D // 8)
    assert blocks["mlp"]["fc1"]["kernel"] == (L, D // 8, 4 * D)
    assert blocks["mlp"]["fc2"]["kernel"] == (L, 4 * D, D // 8)
    assert blocks["adaLN_modulation"]["kernel"] == (L, D // 8, 6, D)
    for name in ("x_embedder", "t_embedder", "y_embedder", "pos_embed", "final_layer", "aux_head"):
        assert local[name] == jax.tree.map(lambda x: x.shape, dit_params()[name])


def test_tensor_cuts_heads_and_hidden_width():
    blocks = local_shapes(dit_params(), make_mesh(2, 2, 2), LIGHTNINGDIT_RULES)["blocks"]
    assert blocks["attn"]["qkv"] == {
        "kernel": (L, D // 2, 3, H // 2, D // H),
        "bias": (L, 3, H // 2, D // H),
    }
    assert blocks["attn"]["proj"] == {"kernel": (L, H // 2, D // H, D // 2), "bias": (L, D)}
    assert blocks["mlp"]["w12"] == {"kernel": (L, D // 2, 2, F // 2), "bias": (L, 2, F // 2)}
    assert blocks["mlp"]["w3"] == {"kernel": (L, F // 2, D // 2), "bias": (L, D)}
    assert blocks["mlp"]["fc1"] == {"kernel": (L, D // 2, 2 * D), "bias": (L, 2 * D)}
    assert blocks["mlp"]["fc2"] == {"kernel": (L, 2 * D, D // 2), "bias": (L, D)}


@pytest.mark.parametrize(("sizes", "parts"), [((1, 8, 1), 8), ((2, 2, 2), 4)])
def test_bytes_on_each_device(sizes, parts):
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dit_params())
    shardings = tree_shardings(params, make_mesh(*sizes), LIGHTNINGDIT_RULES)
    placed = jax.device_put(params, shardings)
    held = dict.fromkeys(jax.devices(), 0)
    for x in jax.tree.leaves(placed):
        for shard in x.addressable_shards:
            held[shard.device] += shard.data.nbytes
    # The kernels, nearly all of a real model, are cut `parts` ways (adaLN by fsdp alone).
    kernels = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.nbytes
        for path, x in jax.tree_util.tree_leaves_with_path(params["blocks"])
        if path[-1].key == "kernel"
    }
    rest = sum(x.nbytes for x in jax.tree.leaves(params)) - sum(kernels.values())
    adaln = kernels.pop("adaLN_modulation/kernel")
    upper = sum(kernels.values()) / parts + adaln / sizes[1] + rest
    assert len(set(held.values())) == 1
    assert upper - rest < held[jax.devices()[0]] <= upper


class State(NamedTuple):
    step: jax.Array
    params: dict
    ema: dict
    opt_state: tuple


def test_ema_and_moments_lie_as_their_parameters():
    mesh, params = make_mesh(2, 2, 2), dit_params()
    opt_state = jax.eval_shape(optax.adamw(1e-3).init, params)
    state = State(jax.ShapeDtypeStruct((), jnp.int32), params, params, opt_state)
    shardings = tree_shardings(state, mesh, LIGHTNINGDIT_RULES)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    moments = shardings.opt_state[0]
    assert shardings.step.spec == moments.count.spec == P()
    assert shardings.params == shardings.ema == moments.mu == moments.nu
    assert shardings.params == tree_shardings(params, mesh, LIGHTNINGDIT_RULES)


def test_every_rule_is_used_and_no_pattern_shadows_another():
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(dit_params())
    ]
    for path in paths:
        assert sum(bool(re.search(pattern, path)) for pattern, _ in LIGHTNINGDIT_RULES) == 1, path
    for pattern, _ in LIGHTNINGDIT_RULES:
        assert any(re.search(pattern, path) for path in paths), pattern


def test_sizes_that_do_not_divide():
    mesh = make_mesh(1, 4, 2)
    small = {"blocks": {"mlp": {"w3": dense(L, F, 63, bias=(L, 63))}}}
    spec = tree_shardings(small, mesh, LIGHTNINGDIT_RULES)["blocks"]["mlp"]["w3"]["kernel"].spec
    assert spec == P(None, "tensor", None)
    large = {"blocks": {"mlp": {"w3": dense(28, 4096, 63, bias=(L, 63))}}}
    with pytest.raises(ValueError, match=r"w3/kernel.*\(28, 4096, 63\).*63 .*mesh.fsdp=4"):
        tree_shardings(large, mesh, LIGHTNINGDIT_RULES)
    odd_heads = {"params": {"blocks": {"attn": {"qkv": dense(L, D, 3, 3, 8, bias=(L, 3, 3, 8))}}}}
    with pytest.raises(
        ValueError, match=r"params/blocks/attn/qkv/.*axis of size 3 .*mesh.tensor=2"
    ):
        tree_shardings(odd_heads, mesh, LIGHTNINGDIT_RULES)


def test_unknown_paths_are_named():
    tree = {"params": {"blocks": {"mlp": [leaf(2, 3)]}}}
    with pytest.raises(ValueError, match=r"no sharding rule matches 'params/blocks/mlp/0'"):
        tree_shardings(tree, make_mesh(), LIGHTNINGDIT_RULES)
    with pytest.raises(ValueError, match=r"'conv/kernel' has shape \(2, 3\)"):
        tree_shardings({"conv": {"kernel": leaf(2, 3)}}, make_mesh(), VAVAE_RULES)


def test_vavae_cuts_output_channels():
    params = {
        "encoder": {
            "conv_in": dense(3, 3, 3, 128, bias=(128,)),
            "norm_out": {"scale": leaf(512), "bias": leaf(512)},
        },
        "decoder": {"conv_out": dense(3, 3, 128, 3, bias=(3,))},
    }
    local = local_shapes(params, make_mesh(1, 8, 1), VAVAE_RULES)
    assert local["encoder"]["conv_in"] == {"kernel": (3, 3, 3, 16), "bias": (128,)}
    assert local["encoder"]["norm_out"] == {"scale": (512,), "bias": (512,)}
    assert local["decoder"]["conv_out"] == {"kernel": (3, 3, 128, 3), "bias": (3,)}


def test_token_constraint():
    mesh = make_mesh(2, 2, 2)
    constrain = constrain_tokens(mesh)
    assert hash(constrain) == hash(constrain_tokens(mesh)) and constrain == constrain_tokens(mesh)

    @functools.partial(jax.jit, static_argnums=1)
    def double(x, constrain):
        return constrain(2 * x)

    x = jnp.arange(8 * 3 * 2.0).reshape(8, 3, 2)
    y = double(x, constrain)
    np.testing.assert_array_equal(y, 2 * x)
    assert y.sharding.shard_shape(y.shape) == (2, 3, 2)
