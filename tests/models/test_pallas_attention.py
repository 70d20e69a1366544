"""The kernel for TPUs, interpreted on the CPU, against attention of other makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from lightningdit_jax.models.attention import attention
from lightningdit_jax.models.embeddings import apply_rotary, rotary_tables
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.pallas_attention import kernel_takes, pallas_attention, unsharded
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.parallel.sharding import HeadsShard, constrain_tokens
from tests import tiny


def inputs(num_heads, head_dim, grid, spread=2.0):
    """q, k, v [B, N, H hd], bias [3, H hd] and a gradient of the output, in bfloat16."""
    rng, width = np.random.default_rng(0), num_heads * head_dim
    q, k, v, grad = rng.normal(size=(4, 1, grid**2, width))
    bias = rng.normal(size=(3, width))
    return [jnp.asarray(x, jnp.bfloat16) for x in (spread * q, k, v, bias, grad)]


def by_heads(attend, head_dim, grid):
    """attention of queries, keys and values by heads, as a function of the kernel's arguments."""

    def apart(q, k, v, bias):
        q, k, v = ((x + row).reshape(*x.shape[:2], -1, head_dim) for x, row in zip((q, k, v), bias))
        if grid is not None:
            tables = rotary_tables(grid, head_dim)
            q, k = apply_rotary(q, *tables), apply_rotary(k, *tables)
        out = attend(q, k, v)
        return out.reshape(*out.shape[:2], -1)

    return apart


def value_and_gradients(function, *arguments):
    *arguments, grad = arguments
    out, pull_back = jax.vjp(function, *arguments)
    return [np.asarray(x, np.float32) for x in (out, *pull_back(grad))]


def of_the_kernel(head_dim, grid, arguments):
    def run(q, k, v, bias):
        return pallas_attention(q, k, v, bias, head_dim, grid, unsharded)

    with pltpu.force_tpu_interpret_mode():
        return value_and_gradients(run, *arguments)


def distance(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize(
    ("num_heads", "head_dim", "rotary"),
    [
        pytest.param(8, 48, True, id="heads that straddle columns"),
        pytest.param(2, 64, False, id="two heads a column", marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients(num_heads, head_dim, rotary):
    grid = 4 if rotary else None
    rounded = inputs(num_heads, head_dim, 4)
    exact = [x.astype(jnp.float32) for x in rounded]
    want = value_and_gradients(by_heads(jax.nn.dot_product_attention, head_dim, grid), *exact)
    other = value_and_gradients(by_heads(attention, head_dim, grid), *rounded)
    for ours, xla, theirs in zip(of_the_kernel(head_dim, grid, rounded), other, want, strict=True):
        assert 0 < distance(ours, theirs) < 0.009
        assert distance(ours, theirs) < 1.02 * distance(xla, theirs)


def test_large_logits_do_not_overflow():
    for array in of_the_kernel(64, None, inputs(2, 64, 4, spread=1e4)):
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("tokens", "num_heads", "head_dim", "taken"),
    [(256, 16, 72, True), (64, 12, 64, True), (1024, 16, 72, False), (256, 3, 72, False)],
)
def test_sizes(tokens, num_heads, head_dim, taken):
    assert kernel_takes(tokens, num_heads, head_dim) is taken
    if not taken:
        x = jnp.zeros((1, tokens, num_heads * head_dim), jnp.bfloat16)
        with pytest.raises(ValueError, match=f"asked for {tokens} tokens, {num_heads} heads of"):
            pallas_attention(x, x, x, x[0, :3], head_dim, None, unsharded)


@pytest.mark.slow
def test_heads_and_images_on_a_mesh():
    """Each device attends with its own: the same bits."""
    q, k, v, bias, _ = inputs(8, 32, 4)
    q, k, v = (jnp.concatenate([x, x[:, ::-1], -x, x[:, ::-1]]) for x in (q, k, v))
    with pltpu.force_tpu_interpret_mode():
        alone, cut = (
            jax.jit(lambda *x, shard=shard: pallas_attention(*x, 32, 4, shard))(q, k, v, bias)
            for shard in (unsharded, HeadsShard(make_mesh(data=4, tensor=2)))
        )
    np.testing.assert_array_equal(*(np.asarray(x, np.float32) for x in (cut, alone)))


@pytest.mark.slow
@pytest.mark.parametrize("use_qknorm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_generator_with_it_on_a_mesh(use_qknorm):
    """Loss and gradients, images and heads cut over eight devices: as near to float32 as XLA's."""
    config = tiny.dit_config(hidden_size=256, num_heads=8, depth=1, use_qknorm=use_qknorm)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 4, 4, 8)).astype(np.float32)
    t, y = rng.uniform(size=4).astype(np.float32), np.arange(4)

    def loss_and_gradients(arrays, dtype, **options):
        graphdef, params = nnx.split(LightningDiT(config, dtype=dtype, rngs=nnx.Rngs(0), **options))
        # Fresh modulations and the final layer are zero: nothing would come from attention.
        leaves, tree = jax.tree.flatten(params)
        draw = np.random.default_rng(1)
        leaves = [leaf + 0.05 * draw.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]

        def loss(params, x, t, y):
            return jnp.mean(jnp.square(nnx.merge(graphdef, params)(x, t, y)))

        value, gradients = jax.jit(jax.value_and_grad(loss))(tree.unflatten(leaves), *arrays)
        named = jax.tree.leaves_with_path(gradients["blocks"]["attn"])
        return {"loss": np.asarray(value)} | {str(path): np.asarray(g) for path, g in named}

    exact = loss_and_gradients((x, t, y), jnp.float32, attention="xla")
    xla = loss_and_gradients((x, t, y), jnp.bfloat16, attention="xla")
    split = jax.device_put((x, t, y), batch_sharding(mesh))
    options = {
        "attention": "pallas",
        "shard": HeadsShard(mesh),
        "constrain": constrain_tokens(mesh),
    }
    with pltpu.force_tpu_interpret_mode():
        ours = loss_and_gradients(split, jnp.bfloat16, **options)
    assert len(ours) == (7 if use_qknorm else 5)
    for name, want in exact.items():
        assert distance(ours[name], want) < 1.25 * distance(xla[name], want) + 1e-3, name
