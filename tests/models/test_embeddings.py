"""Tables and layers against the release, and against what defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.keymap import Flat, Linear
from lightningdit_jax.models.embeddings import (
    _quarter_turn,
    _quarter_turn_by_product,
    apply_rotary,
    rotary_angles,
    rotary_tables,
    sincos_position_table,
    timestep_embedding,
)
from lightningdit_jax.models.layers import RMSNorm, SwiGLU
from tests import golden


def test_timestep_embedding():
    case, tolerance = golden.load("timestep_embedding"), golden.index()["timestep_embedding"]
    for dim in (256, 64, 33):
        got = timestep_embedding(case["in.t"], dim)
        golden.assert_close(got, case[f"out.dim{dim}"], tolerance["tolerance"])
        small = case["in.t"] <= 1
        np.testing.assert_allclose(got[small], case[f"out.dim{dim}"][small], atol=2e-6)
    got = timestep_embedding(case["in.t"], 32, max_period=100)
    golden.assert_close(got, case["out.dim32_max100"], tolerance["tolerance"])


def test_sincos_position_table():
    case, entry = golden.load("pos_embed_2d"), golden.index()["pos_embed_2d"]
    table = sincos_position_table(1152, 16)
    golden.assert_close(table[case["in.rows"]], case["out.xl1_rows"], entry["tolerance"])
    sums = {"atol": 1e-3, "rtol": 1e-5}  # of the index's notes
    golden.assert_close(table.sum(1, dtype=np.float64), case["out.xl1_rowsum"], sums)
    golden.assert_close(table.sum(0, dtype=np.float64), case["out.xl1_colsum"], sums)
    golden.assert_close(sincos_position_table(16, 5), case["out.d16_g5"], entry["tolerance"])
    # The release can put a class token of zeros in front.
    golden.assert_close(sincos_position_table(16, 3), case["out.cls"][1:], entry["tolerance"])


def test_rotary_tables():
    case, entry = golden.load("rope"), golden.index()["rope"]
    for name, grid in (("xl", 16), ("xl2", 8)):
        cos, sin = rotary_tables(grid, 72)
        golden.assert_close(cos, case[f"out.{name}.freqs_cos"], entry["tolerance"])
        golden.assert_close(sin, case[f"out.{name}.freqs_sin"], entry["tolerance"])
    # Six positions where four were trained, stretched to the same range.
    angles = rotary_angles(np.arange(6) / 6 * 4, 24)
    golden.assert_close(np.cos(angles), case["out.ft.freqs_cos"], entry["tolerance"])
    golden.assert_close(np.sin(angles), case["out.ft.freqs_sin"], entry["tolerance"])


def test_apply_rotary():
    case, entry = golden.load("rope"), golden.index()["rope"]
    for name, grid in (("xl", 16), ("xl2", 8)):
        cos, sin = (table[case[f"in.{name}.pos"]] for table in rotary_tables(grid, 72))
        q = case[f"in.{name}.q"].swapaxes(1, 2)  # [B, N, H, hd]
        got = apply_rotary(jnp.asarray(q), cos, sin).swapaxes(1, 2)
        golden.assert_close(got, case[f"out.{name}.q_rot"], entry["tolerance"])


def test_rotary_turns_pairs_as_complex_numbers():
    x = np.random.default_rng(0).normal(size=(1, 9, 2, 8)).astype(np.float32)
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    turned = pairs * np.exp(1j * rotary_angles(np.arange(3), 8))[:, None, ::2]
    got = apply_rotary(jnp.asarray(x), *rotary_tables(3, 8))
    np.testing.assert_allclose(got[..., 0::2], turned.real, atol=1e-6)
    np.testing.assert_allclose(got[..., 1::2], turned.imag, atol=1e-6)


def test_rotary_in_bfloat16_rounds_only_at_its_end():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 2, 8)), jnp.bfloat16)
    got = apply_rotary(x, *rotary_tables(3, 8))
    exact = apply_rotary(x.astype(jnp.float32), *rotary_tables(3, 8))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_quarter_turn_is_the_same_on_every_platform(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 2, 72)), dtype)
    np.testing.assert_array_equal(_quarter_turn(x), _quarter_turn_by_product(x))


def test_rotary_gradient_turns_back():
    rng = np.random.default_rng(0)
    x, grad = (jnp.asarray(rng.normal(size=(1, 9, 2, 8)), jnp.float32) for _ in range(2))
    tables = rotary_tables(3, 8)
    _, pull_back = jax.vjp(lambda x: apply_rotary(x, *tables), x)
    # Rotations keep lengths and angles: (R x) . g = x . (R^T g), and R^T R = 1.
    np.testing.assert_allclose(
        jnp.vdot(apply_rotary(x, *tables), grad), jnp.vdot(x, pull_back(grad)[0]), rtol=1e-5
    )
    np.testing.assert_allclose(pull_back(apply_rotary(grad, *tables))[0], grad, atol=1e-6)


def test_rmsnorm():
    case, entry = golden.load("rmsnorm_swiglu"), golden.index()["rmsnorm_swiglu"]
    x, norm = jnp.asarray(case["in.x"]), RMSNorm(24)
    unit = norm(x.astype(jnp.bfloat16))
    assert unit.dtype == jnp.bfloat16
    np.testing.assert_allclose(unit.astype(np.float32), case["out.rms_bf16_as_f32"], rtol=8e-3)
    norm.scale[...] = jnp.asarray(case["in.rms_weight"])
    golden.assert_close(norm(x), case["out.rms"], entry["tolerance"])
    golden.assert_close(norm(0.001 * x), case["out.rms_small"], entry["tolerance"])


def test_swiglu():
    case, entry = golden.load("rmsnorm_swiglu"), golden.index()["rmsnorm_swiglu"]
    mlp = SwiGLU(24, 64, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for name, layer in (("w12", mlp.w12), ("w3", mlp.w3)):
        kernel, bias = case[f"in.ffn.{name}.weight"], case[f"in.ffn.{name}.bias"]
        layer.kernel[...] = jnp.asarray(Linear().to_ours(kernel, layer.kernel.shape))
        layer.bias[...] = jnp.asarray(Flat().to_ours(bias, layer.bias.shape))
    golden.assert_close(mlp(case["in.x"]), case["out.ffn"], entry["tolerance"])
