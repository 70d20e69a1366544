"""Vision transformers that latents are aligned with and images compared by.

DINOv2 (Oquab et al. 2023; with registers Darcet et al. 2023), MAE (He et al. 2022), DINOv3 (Siméoni
et al. 2025), SigLIP 2 (Tschannen et al. 2025) and CLIP (Radford et al. 2021); as in timm, on which
the release builds. Images are NHWC.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.models.embeddings import centered_rotary_tables, turn_halves
from lightningdit_jax.models.foundation import patch_grid
from lightningdit_jax.models.layers import SwiGLU, linear
from lightningdit_jax.models.stack import Activations, make_stack, run_stack
from lightningdit_jax.models.vit_config import ACTIVATIONS, ViTConfig


def resize_bilinear(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize about pixel centers, without antialiasing. [B, H, W, C] -> [B, *size, C]."""
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[-1])
    return jax.image.resize(images, shape, "bilinear", antialias=False)


def resize_bicubic(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize about pixel centers, without antialiasing. [B, H, W, C] -> [B, *size, C].

    a = -0.75 and the border repeated, as torch.nn.functional.interpolate, which REPA shows images
    to its teachers by. In float32.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        if images.shape[axis] != length:
            matrix = jnp.asarray(_cubic_weights(images.shape[axis], length), jnp.float32)
            resized = jnp.tensordot(images, matrix, (axis, 1), precision="highest")
            images = jnp.moveaxis(resized, -1, axis)
    return images


def _cubic_weights(inputs: int, outputs: int) -> np.ndarray:
    """What each output takes of each input along an axis, [outputs, inputs]. Keys 1981."""
    centers = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    matrix = np.zeros((outputs, inputs))
    for step in (-1, 0, 1, 2):
        place = np.floor(centers) + step
        d = np.abs(centers - place)
        near, far = (1.25 * d - 2.25) * d**2 + 1, -0.75 * (((d - 5) * d + 8) * d - 4)
        column = np.clip(place, 0, inputs - 1).astype(int)
        np.add.at(matrix, (np.arange(outputs), column), np.where(d <= 1, near, far))
    return matrix


def resample_positions(table: jax.Array, grid: int, size: tuple[int, int]) -> jax.Array:
    """A position table on another grid. [P + grid grid, D] -> [P + h w, D], the first P rows kept.

    Bicubic with a = -0.5 and antialiasing in float32, as timm's resample_abs_pos_embed.
    """
    if size == (grid, grid):
        return table
    prefix, patches = table[: -(grid**2)], table[-(grid**2) :]
    patches = patches.reshape(grid, grid, -1)
    patches = jax.image.resize(patches, (*size, patches.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([prefix, patches.reshape(-1, patches.shape[-1])])


def _norm(config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
    )


class SelfAttention(nnx.Module):
    """Multi-head self-attention. [B, N, D] -> [B, N, D]."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim, heads = config.hidden_size, config.num_heads
        head_dim = dim // heads
        self.qkv = linear(
            dim, (3, heads, head_dim), use_bias=config.qkv_bias, dtype=dtype, rngs=rngs
        )
        self.proj = linear((heads, head_dim), dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, rotary: tuple[np.ndarray, np.ndarray] | None) -> jax.Array:
        """rotary: cosines and sines [P, hd / 2] by which the last P tokens are turned."""
        qkv = self.qkv(x)  # [B, N, 3, H, hd]
        q, k, v = (qkv[:, :, i] for i in range(3))
        if rotary is not None:
            prefix = x.shape[1] - len(rotary[0])
            q, k = (
                jnp.concatenate([y[:, :prefix], turn_halves(y[:, prefix:], *rotary)], axis=1)
                for y in (q, k)
            )
        return self.proj(jax.nn.dot_product_attention(q, k, v))


class Mlp(nnx.Module):
    """Linear, activation, linear. [..., D] -> [..., D]."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim, hidden = config.hidden_size, config.mlp_hidden
        self.activation = config.activation
        self.fc1 = linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class LayerScale(nnx.Module):
    """x times a learned vector. Touvron et al. 2021. [..., D] -> [..., D]."""

    def __init__(self, dim: int):
        self.gamma = nnx.Param(jnp.full(dim, 1e-5, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


class ViTBlock(nnx.Module):
    """Pre-norm transformer block. [B, N, D] -> [B, N, D]. Dosovitskiy et al. 2021."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = config.hidden_size
        self.layer_scale = config.layer_scale
        self.norm1 = _norm(config, dtype=dtype, rngs=rngs)
        self.attn = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.norm2 = _norm(config, dtype=dtype, rngs=rngs)
        self.mlp: Mlp | SwiGLU
        if config.use_swiglu:
            self.mlp = SwiGLU(dim, config.mlp_hidden, dtype=dtype, rngs=rngs)
        else:
            self.mlp = Mlp(config, dtype=dtype, rngs=rngs)
        if self.layer_scale:
            self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def __call__(self, x: jax.Array, rotary: tuple[np.ndarray, np.ndarray] | None) -> jax.Array:
        """rotary: as SelfAttention."""
        branch = self.attn(self.norm1(x), rotary)
        x = x + (self.ls1(branch) if self.layer_scale else branch)
        branch = self.mlp(self.norm2(x))
        return x + (self.ls2(branch) if self.layer_scale else branch)


class AttentionPool(nnx.Module):
    """A learned query attends to the tokens, then an MLP. [B, N, D] -> [B, D]. Zhai et al. 2022."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim, heads = config.hidden_size, config.num_heads
        head_dim = dim // heads
        normal = nnx.initializers.normal(dim**-0.5)
        self.latent = nnx.Param(normal(rngs.params(), (dim,), jnp.float32))
        self.q = linear(dim, (heads, head_dim), dtype=dtype, rngs=rngs)
        self.kv = linear(dim, (2, heads, head_dim), dtype=dtype, rngs=rngs)
        self.proj = linear((heads, head_dim), dim, dtype=dtype, rngs=rngs)
        self.norm = _norm(config, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query = jnp.broadcast_to(self.latent[...], (len(x), 1, x.shape[-1]))
        kv = self.kv(x)  # [B, N, 2, H, hd]
        attended = jax.nn.dot_product_attention(self.q(query), kv[:, :, 0], kv[:, :, 1])
        x = self.proj(attended)[:, 0]
        return x + self.mlp(self.norm(x))


class ViT(nnx.Module):
    """Features of an image and of its patches. Parameters are float32; dtype is that of matmuls.

    Blocks are stacked along a leading axis and scanned.
    """

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, np.dtype(dtype)
        dtype, dim = self.dtype, config.hidden_size
        normal = nnx.initializers.normal(0.02)
        self.patch_embed = linear(
            config.patch_size**2 * 3, dim, use_bias=config.patch_bias, dtype=dtype, rngs=rngs
        )
        if config.class_token:
            self.cls_token = nnx.Param(normal(rngs.params(), (dim,), jnp.float32))
        if config.pos_embed_grid:
            rows = config.pos_embed_grid**2 + config.class_pos_embed
            self.pos_embed = nnx.Param(normal(rngs.params(), (rows, dim), jnp.float32))
        if config.num_registers:
            shape = (config.num_registers, dim)
            self.reg_token = nnx.Param(normal(rngs.params(), shape, jnp.float32))
        if config.norm_pre:
            self.norm_pre = _norm(config, dtype=dtype, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> ViTBlock:
            return ViTBlock(config, dtype=dtype, rngs=rngs)

        self.blocks = make_stack(make_block, config.depth, rngs)
        self.norm = _norm(config, dtype=dtype, rngs=rngs)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config, dtype=dtype, rngs=rngs)
        if config.projection:
            self.head = linear(dim, config.projection, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Patch tokens after the last norm. [B, H, W, 3] -> [B, H/p, W/p, D].

        Raises ValueError if the patch does not divide the sides, or the images are not RGB.
        """
        return self.with_activations(images, ())[0]

    def pooled(self, images: jax.Array) -> jax.Array:
        """One vector an image, after the last norm, before any projection. -> [B, D].

        What attention pools (SigLIP), else the class token, else the mean of the patches. images
        and what is raised: as __call__.
        """
        tokens, _ = self._tokens(images, ())
        if self.config.attention_pool:
            return self.attn_pool(tokens)
        if self.config.class_token:
            return tokens[:, 0]
        return tokens[:, self.config.num_registers :].mean(axis=1)

    def embedding(self, images: jax.Array) -> jax.Array:
        """The same in the space that CLIP shares with text, not normalized. -> [B, projection].

        Raises ValueError as __call__, and for a model without a projection.
        """
        if not self.config.projection:
            raise ValueError("this model has no projection; expected CLIP's image tower")
        return self.head(self.pooled(images))

    def with_activations(
        self, images: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, Activations]:
        """The same as __call__, and all tokens after some blocks by their number, from 1.

        Tokens [B, N, D] are class, registers and patches, before the last norm. Raises ValueError
        as __call__, and for a number that no block has.
        """
        tokens, kept = self._tokens(images, activations)
        size = patch_grid(images, self.config.patch_size)
        return tokens[:, -size[0] * size[1] :].reshape(len(images), *size, -1), kept

    def _tokens(
        self, images: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, Activations]:
        """All tokens after the last norm: class, registers, patches. -> [B, N, D]."""
        config, size = self.config, patch_grid(images, self.config.patch_size)
        rotary = None
        if config.rotary_base:
            head_dim = config.hidden_size // config.num_heads
            rotary = centered_rotary_tables(size, head_dim, config.rotary_base)
        tokens, kept = run_stack(
            self.blocks,
            lambda block, x: block(x, rotary),
            self._embed(images, size),
            activations=activations,
        )
        return self.norm(tokens), kept

    def _embed(self, images: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Tokens with their positions: class, registers, patches. -> [B, N, D]."""
        config, batch, patch = self.config, len(images), self.config.patch_size
        x = images.reshape(batch, size[0], patch, size[1], patch, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, size[0] * size[1], -1)
        x = self.patch_embed(x)
        prefix = [self.cls_token[...][None]] if config.class_token else []
        if config.pos_embed_grid:
            positions = resample_positions(self.pos_embed[...], config.pos_embed_grid, size)
            if config.class_pos_embed:
                prefix, positions = [prefix[0] + positions[:1]], positions[1:]
            x = x + positions
        if config.num_registers:
            prefix.append(self.reg_token[...])
        x = x.astype(self.dtype)
        if prefix:
            first = jnp.concatenate(prefix)
            first = jnp.broadcast_to(first, (batch, *first.shape)).astype(self.dtype)
            x = jnp.concatenate([first, x], axis=1)
        return self.norm_pre(x) if config.norm_pre else x
