"""Embeddings of time and of position: sinusoids, the 2-D sin-cos table, rotary tables."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

FREQUENCIES = 256  # width of the timestep sinusoid
MAX_PERIOD = 10_000.0


def timestep_embedding(t: jax.Array, dim: int, max_period: float = MAX_PERIOD) -> jax.Array:
    """Sinusoid of times, cosines first. t: [B] -> [B, dim] float32; DiT, after Ho et al. 2020.

    t in [0, 1] is taken as it is, not scaled to steps. An odd dim ends in a column of zeros.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) / half * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class TimestepEmbedder(nnx.Module):
    """Sinusoid, then linear, SiLU, linear. t: [B] in [0, 1] -> [B, D] of `dtype`. DiT."""

    def __init__(self, hidden_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kernel_init = nnx.initializers.normal(0.02)
        self.fc1 = nnx.Linear(
            FREQUENCIES, hidden_size, dtype=dtype, kernel_init=kernel_init, rngs=rngs
        )
        self.fc2 = nnx.Linear(
            hidden_size, hidden_size, dtype=dtype, kernel_init=kernel_init, rngs=rngs
        )

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.fc2(nnx.silu(self.fc1(timestep_embedding(t, FREQUENCIES))))


def sincos_position_table(dim: int, grid: int) -> np.ndarray:
    """Fixed 2-D position embedding. -> [grid * grid, dim] float32, rows of the grid in order; MAE.

    The first half of the channels encodes the column, the second half the row, each as sines
    then cosines. dim must be divisible by 4.
    """
    omega = MAX_PERIOD ** -(np.arange(dim // 4) / (dim / 4))
    angles = np.arange(grid)[:, None] * omega
    side = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [grid, dim / 2]
    shape = (grid, grid, dim // 2)
    columns = np.broadcast_to(side[None, :], shape)
    rows = np.broadcast_to(side[:, None], shape)
    table = np.concatenate([columns, rows], axis=-1)
    return table.reshape(grid * grid, dim).astype(np.float32)


def rotary_angles(positions: np.ndarray, head_dim: int) -> np.ndarray:
    """Angles of the 2-D rotary embedding. positions: [G] of a side -> [G * G, head_dim].

    The first half of the head turns with the row, the second with the column; each frequency
    serves a pair of neighboring channels. head_dim must be divisible by 4. EVA-02.
    """
    dim = head_dim // 2
    # Frequencies and products in float32 as in the release, whose buffers these are.
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies = np.float32(1) / np.float32(MAX_PERIOD) ** exponents
    side = np.repeat(np.asarray(positions, np.float32)[:, None] * frequencies, 2, axis=1)
    shape = (len(side), len(side), dim)
    rows = np.broadcast_to(side[:, None], shape)
    columns = np.broadcast_to(side[None, :], shape)
    return np.concatenate([rows, columns], axis=-1).reshape(-1, head_dim)


@functools.lru_cache(maxsize=16)
def rotary_tables(grid: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the rotary angles of a grid of tokens, each [grid * grid, head_dim]."""
    angles = rotary_angles(np.arange(grid), head_dim).astype(np.float64)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for table in tables:
        table.flags.writeable = False  # shared by all callers
    return tables


@functools.lru_cache(maxsize=16)
def _pair_rotation(head_dim: int) -> np.ndarray:
    """R with x @ R = (-x1, x0, -x3, x2, ...). [head_dim, head_dim]."""
    even = np.arange(0, head_dim, 2)
    rotation = np.zeros((head_dim, head_dim), np.float32)
    rotation[even, even + 1] = 1
    rotation[even + 1, even] = -1
    rotation.flags.writeable = False
    return rotation


@jax.custom_vjp
def apply_rotary(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns neighboring pairs of channels. x: [B, N, H, hd], tables [N, hd] -> as x; RoFormer.

    The tables are constants: they have no gradients.
    """
    chex.assert_shape([cos, sin], (x.shape[1], x.shape[3]))
    turned = jax.lax.platform_dependent(x, tpu=_quarter_turn_by_product, default=_quarter_turn)
    cos, sin = cos[:, None], sin[:, None]
    return (x.astype(jnp.float32) * cos + turned * sin).astype(x.dtype)


@functools.lru_cache(maxsize=16)
def centered_rotary_tables(
    size: tuple[int, int], head_dim: int, base: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of DINOv3's rotary positions, each [h w, head_dim / 2] float32.

    Centers of patches lie in (-1, 1) along each side, whatever their number; the first half of the
    angles is of the row, the second of the column, with periods base^(4 i / head_dim). Siméoni et
    al. 2025, sec. 3.2. head_dim must be divisible by 4.
    """
    periods = base ** (np.arange(head_dim // 4) * 4 / head_dim)
    sides = [(2 * np.arange(n) + 1) / n - 1 for n in size]
    rows, columns = np.meshgrid(*sides, indexing="ij")
    centers = np.stack([rows.ravel(), columns.ravel()], axis=1)
    angles = (2 * np.pi * centers[..., None] / periods).reshape(len(centers), -1)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for table in tables:
        table.flags.writeable = False  # shared by all callers
    return tables


def turn_halves(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
    """Turns channel i of a head with channel i + hd / 2. x: [B, N, H, hd], tables [N, hd / 2]."""
    chex.assert_shape([cos, sin], (x.shape[1], x.shape[3] // 2))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _rotary_forward(x: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, tuple]:
    return apply_rotary(x, cos, sin), (cos, sin)


def _rotary_backward(tables: tuple, grad: jax.Array) -> tuple[jax.Array, None, None]:
    """Turns back: in one pass, where automatic differentiation would round in between."""
    cos, sin = tables
    return apply_rotary(grad, cos, -sin), None, None


apply_rotary.defvjp(_rotary_forward, _rotary_backward)


def _quarter_turn(x: jax.Array) -> jax.Array:
    """(-x1, x0, -x3, x2, ...) of the last axis, float32."""
    swapped = x.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)
    signs = np.tile(np.asarray([-1, 1], np.float32), x.shape[-1] // 2)
    return swapped.astype(jnp.float32) * signs


def _quarter_turn_by_product(x: jax.Array) -> jax.Array:
    """The same as a matrix product, for TPUs: shuffling lanes costs far more there."""
    rotation = jnp.asarray(_pair_rotation(x.shape[-1]), x.dtype)
    # Entries 0 and 1: exact in bfloat16 as it is, in float32 only at full precision.
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    turned = jnp.einsum("BNHK,KJ->BNHJ", x, rotation, precision=precision)
    return turned.astype(jnp.float32)
