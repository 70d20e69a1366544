"""LightningDiT: the diffusion transformer of Yao et al. 2025 (arXiv 2501.01423), sec. 4.

DiT (Peebles & Xie 2023) with SwiGLU, RMSNorm and rotary embedding, each an option.
"""

import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.attention import IMPLEMENTATIONS, choose_implementation
from lightningdit_jax.models.embeddings import TimestepEmbedder, sincos_position_table
from lightningdit_jax.models.layers import (
    PRODUCTS,
    Attention,
    GeluMlp,
    SwiGLU,
    linear,
    modulated,
    token_norm,
    xavier_uniform,
)
from lightningdit_jax.models.lightningdit_config import LightningDiTConfig
from lightningdit_jax.models.pallas_attention import Shard, unsharded
from lightningdit_jax.models.stack import Activations, make_stack, run_stack

# What a rematerialized block keeps for its backward pass.
_POLICIES = jax.checkpoint_policies
REMAT_POLICIES: dict[str, Callable[..., Any]] = {
    "block": _POLICIES.nothing_saveable,
    "attention": _POLICIES.save_only_these_names("qkv", "attention"),
    "attention_mlp": _POLICIES.save_only_these_names("qkv", "attention", "mlp_hidden"),
    "dots": _POLICIES.save_only_these_names("qkv", "attention", "mlp_hidden", "branch"),
}
REMAT = ("none", *REMAT_POLICIES)


class Block(nnx.Module):
    """AdaLN-Zero block. x: [B, N, D], c: [B, D] -> [B, N, D]. Peebles & Xie 2023, sec. 3.2.

    wo_shift leaves scale and gate of each branch.
    """

    def __init__(
        self,
        config: LightningDiTConfig,
        *,
        attention: str,
        shard: Shard,
        products: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        dim = config.hidden_size
        self.wo_shift = config.wo_shift
        self.norm1 = token_norm(dim, config.use_rmsnorm, dtype=dtype, rngs=rngs)
        self.attn = Attention(
            dim,
            config.num_heads,
            config.grid,
            use_qknorm=config.use_qknorm,
            use_rope=config.use_rope,
            use_rmsnorm=config.use_rmsnorm,
            implementation=attention,
            shard=shard,
            products=products,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm2 = token_norm(dim, config.use_rmsnorm, dtype=dtype, rngs=rngs)
        mlp = SwiGLU if config.use_swiglu else GeluMlp
        self.mlp = mlp(dim, config.mlp_hidden, products=products, dtype=dtype, rngs=rngs)
        self.adaLN_modulation = linear(
            dim,
            (4 if config.wo_shift else 6, dim),
            dtype=dtype,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        modulation = self.adaLN_modulation(nnx.silu(c))[:, :, None]  # [B, 6 or 4, 1, D]
        parts = jnp.unstack(modulation, axis=1)
        if self.wo_shift:
            shift1 = shift2 = None
            scale1, gate1, scale2, gate2 = parts
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
        branch = self.attn(modulated(self.norm1, x, shift1, scale1))
        x = x + gate1 * checkpoint_name(branch, "branch")
        branch = self.mlp(modulated(self.norm2, x, shift2, scale2))
        return x + gate2 * checkpoint_name(branch, "branch")


class FinalLayer(nnx.Module):
    """Modulated norm and linear. x: [B, N, D], c: [B, D] -> [B, N, p p C_out]. DiT."""

    def __init__(
        self,
        config: LightningDiTConfig,
        *,
        kernel_init: nnx.Initializer = nnx.initializers.zeros,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        dim = config.hidden_size
        self.norm_final = token_norm(dim, config.use_rmsnorm, dtype=dtype, rngs=rngs)
        self.linear = linear(
            dim,
            config.patch_size**2 * config.out_channels,
            dtype=dtype,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.adaLN_modulation = linear(
            dim, (2, dim), dtype=dtype, kernel_init=kernel_init, rngs=rngs
        )

    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        shift, scale = jnp.unstack(self.adaLN_modulation(nnx.silu(c))[:, :, None], axis=1)
        return self.linear(modulated(self.norm_final, x, shift, scale))


def _unconstrained(x: jax.Array) -> jax.Array:
    return x


class LightningDiT(nnx.Module):
    """Velocity of a latent at a time, given its class. See __call__.

    Parameters are float32; dtype is that of matmuls and activations, while norm statistics,
    softmax and the timestep sinusoid stay float32. Blocks are stacked along a leading axis and
    scanned, scan_unroll at a time. remat: one of REMAT. attention: one of IMPLEMENTATIONS, "pallas"
    on a mesh cut by shard. products: one of PRODUCTS, of the blocks' linear layers but adaLN's; if
    "float8" these have Scales beside their parameters. constrain(x) pins activations [B, N, D] to a
    sharding. `flow` and `latent_scaling` are what its checkpoint says of its training, for those
    who sample; None where nobody does. Raises ValueError for an unknown remat or attention.
    """

    def __init__(
        self,
        config: LightningDiTConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        scan_unroll: int = 1,
        attention: str = "auto",
        shard: Shard = unsharded,
        products: str = PRODUCTS[0],
        constrain: Callable[[jax.Array], jax.Array] = _unconstrained,
        rngs: nnx.Rngs,
    ):
        if remat not in REMAT:
            raise ValueError(unknown_name("remat policy", remat, REMAT))
        if attention not in IMPLEMENTATIONS:
            raise ValueError(unknown_name("attention implementation", attention, IMPLEMENTATIONS))
        self.config, self.remat, self.scan_unroll = config, remat, scan_unroll
        self.dtype, self.constrain = np.dtype(dtype), constrain
        self.flow: Any = None
        self.latent_scaling: LatentScaling | None = None
        dtype, dim = self.dtype, config.hidden_size
        if attention == "auto":
            attention = choose_implementation(dtype, config.head_dim)

        patch_dim = config.patch_size**2 * config.in_channels
        self.x_embedder = linear(patch_dim, dim, dtype=dtype, rngs=rngs)
        self.t_embedder = TimestepEmbedder(dim, dtype=dtype, rngs=rngs)
        self.y_embedder = nnx.Embed(
            config.num_labels, dim, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.pos_embed = nnx.Param(jnp.asarray(sincos_position_table(dim, config.grid)))

        def make_block(rngs: nnx.Rngs) -> Block:
            return Block(
                config,
                attention=attention,
                shard=shard,
                products=products,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = make_stack(make_block, config.depth, rngs)
        self.final_layer = FinalLayer(config, dtype=dtype, rngs=rngs)
        # Last, so that the other weights are drawn as without it. Not of zeros, as published.
        self.aux_head = (
            FinalLayer(config, kernel_init=xavier_uniform, dtype=dtype, rngs=rngs)
            if config.aux_head_depth
            else None
        )

    def __call__(self, x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
        """Velocity at x. x: [B, H, W, C], t: [B] in [0, 1], y: [B] int -> [B, H, W, C] float32.

        t = 0 is noise, t = 1 data. y = num_classes is the null class. y may be embeddings too, [B,
        D] floats: mixtures of rows of y_embedder, say. With learn_sigma the second half of the
        output channels is dropped, as in the release.
        Raises ValueError if x has another size or other channels than the config, or t and y are
        not one a row.
        """
        return self.with_activations(x, t, y, ())[0]

    def with_activations(
        self, x: jax.Array, t: jax.Array, y: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, Activations]:
        """The velocity, and tokens [B, N, D] after some blocks by their number, counted from 1.

        Arguments and errors as of __call__; ValueError for a number that no block has too.
        """
        velocity, _, kept = self._run(x, t, y, activations)
        return velocity, kept

    def with_aux_head(
        self, x: jax.Array, t: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The velocity, and what the second head makes of the tokens after block aux_head_depth.

        Of one pass; the second head has a modulation of its own, of the same condition. Zhou et
        al. 2025, arXiv 2512.24176. Arguments, shapes and errors as of __call__; ValueError for a
        model without a second head too.
        """
        if self.aux_head is None:
            raise ValueError("the model has no second head; expected aux_head_depth above 0")
        velocity, aux, _ = self.in_training(x, t, y, ())
        return velocity, typing.cast(jax.Array, aux)

    def in_training(
        self, x: jax.Array, t: jax.Array, y: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, jax.Array | None, Activations]:
        """All that losses are of, of one pass: the velocity, with_aux_head's, with_activations'.

        Arguments, shapes and errors as of those; without a second head there is None of it.
        """
        depth = self.config.aux_head_depth
        asked = (*activations, depth) if depth and depth not in activations else activations
        velocity, c, kept = self._run(x, t, y, asked)
        aux = None if self.aux_head is None else self.unpatchify(self.aux_head(kept[depth], c))
        return velocity, aux, kept

    def tokens_after(self, x: jax.Array, t: jax.Array, y: jax.Array, block: int) -> jax.Array:
        """Tokens [B, N, D] after a block, by its number: those before it are all that is computed.

        Arguments and errors as of with_activations.
        """
        self._check_inputs(x, t, y)
        return self.run_blocks(self.embed_latents(x), self.embed_condition(t, y), last=block)[0]

    def _run(
        self, x: jax.Array, t: jax.Array, y: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, jax.Array, Activations]:
        """As with_activations, and between them the condition c [B, D]."""
        self._check_inputs(x, t, y)
        c = self.embed_condition(t, y)
        tokens, kept = self.run_blocks(self.embed_latents(x), c, activations)
        return self.unpatchify(self.final_layer(tokens, c)), c, kept

    def _check_inputs(self, x: jax.Array, t: jax.Array, y: jax.Array) -> None:
        config = self.config
        expected = (config.input_size, config.input_size, config.in_channels)
        if x.ndim != 4 or x.shape[1:] != expected:
            raise ValueError(f"x has shape {x.shape}; expected [B, H, W, C] with {expected}")
        rows, embeddings = x.shape[:1], (len(x), config.hidden_size)
        is_label = jnp.issubdtype(y.dtype, jnp.integer)
        if t.shape != rows or y.shape != (rows if is_label else embeddings):
            raise ValueError(
                f"x has {len(x)} rows, t has shape {t.shape} and y {y.shape} of {y.dtype}; "
                "expected a time and a label for each row, [B] and [B] int, or for the label its "
                f"embedding, {embeddings}"
            )

    def embed_latents(self, x: jax.Array) -> jax.Array:
        """Patches to tokens, with their positions. x: [B, H, W, C] -> [B, N, D]."""
        config, grid, patch = self.config, self.config.grid, self.config.patch_size
        x = x.reshape(-1, grid, patch, grid, patch, config.in_channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), grid * grid, -1)
        # A parameter, so that checkpoints carry it, but frozen.
        pos_embed = jax.lax.stop_gradient(self.pos_embed[...])
        tokens = (self.x_embedder(x) + pos_embed).astype(self.dtype)
        return self.constrain(tokens)

    def embed_condition(self, t: jax.Array, y: jax.Array) -> jax.Array:
        """Time plus class. t: [B], y: [B] int, or embeddings [B, D] -> c [B, D] float32."""
        classes = self.y_embedder(y) if y.ndim == 1 else y
        return self.t_embedder(t).astype(jnp.float32) + classes

    def run_blocks(
        self,
        x: jax.Array,
        c: jax.Array,
        activations: Sequence[int] = (),
        last: int | None = None,
    ) -> tuple[jax.Array, Activations]:
        """All blocks in turn, see run_stack. x: [B, N, D], c: [B, D] -> [B, N, D], activations."""
        return run_stack(
            self.blocks,
            lambda block, x: self.constrain(block(x, c)),
            x,
            policy=REMAT_POLICIES.get(self.remat),
            unroll=self.scan_unroll,
            fused_parts_first=True,
            activations=activations,
            last=last,
        )

    def unpatchify(self, x: jax.Array) -> jax.Array:
        """Tokens to a latent. x: [B, N, p p C_out] -> [B, H, W, C] float32."""
        grid, patch = self.config.grid, self.config.patch_size
        x = x.astype(jnp.float32).reshape(-1, grid, grid, patch, patch, self.config.out_channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, grid * patch, grid * patch, self.config.out_channels)
        return x[..., : self.config.in_channels]
