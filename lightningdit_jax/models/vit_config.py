"""Architectures of vision transformers, and those that are published."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from lightningdit_jax.errors import unknown_name

# PyTorch's GELU, JAX's default, and what CLIP was trained with, x sigmoid(1.702 x).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Architecture of an encoder. Raises ValueError naming the field that does not fit.

    pos_embed_grid: side of the grid that the position table was trained on; other grids resample
    it; 0 where rotary_base takes its place. class_pos_embed: the table has a row for the class
    token too. layer_scale: learned scale of each branch (DINOv2). num_registers: tokens beside the
    class token that stand for no patch. use_swiglu: gated MLPs, mlp_hidden wide each of gate and
    value (DINOv2's giant). class_token: there is one. patch_bias, qkv_bias: these layers have
    biases. norm_pre: of the tokens before the first block (CLIP). norm_eps: of all norms.
    activation: of the MLPs, one of ACTIVATIONS. rotary_base: of the periods of the patches' rotary
    positions (DINOv3: 100), 0 for none. attention_pool: a learned query pools the patches
    (SigLIP). projection: width that the pooled vector is projected to (CLIP), 0 for none.
    """

    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_hidden: int
    pos_embed_grid: int
    layer_scale: bool
    num_registers: int
    class_pos_embed: bool
    use_swiglu: bool = False
    class_token: bool = True
    patch_bias: bool = True
    qkv_bias: bool = True
    norm_pre: bool = False
    norm_eps: float = 1e-6
    activation: str = "gelu"
    rotary_base: float = 0.0
    attention_pool: bool = False
    projection: int = 0

    def __post_init__(self):
        may_be_zero = (
            "num_registers",
            "projection",
            *(["pos_embed_grid"] * bool(self.rotary_base)),
        )
        for field in dataclasses.fields(self):
            least = 0 if field.name in may_be_zero else 1
            if field.type is int and getattr(self, field.name) < least:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}; expected at least {least}"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; expected a multiple of num_heads, "
                f"{self.num_heads}"
            )
        if self.rotary_base and self.hidden_size // self.num_heads % 4:
            raise ValueError(
                f"heads are {self.hidden_size // self.num_heads} wide; rotary positions need a "
                "multiple of 4"
            )
        if self.class_pos_embed and not (self.class_token and self.pos_embed_grid):
            raise ValueError(
                "class_pos_embed is True; expected False without a class token or a position table"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(unknown_name("activation", self.activation, tuple(ACTIVATIONS)))


def _large(**fields: Any) -> ViTConfig:
    large = {"hidden_size": 1024, "depth": 24, "num_heads": 16, "mlp_hidden": 4096}
    return ViTConfig(**{**large, **fields})


# ViT-L, which the release's configs name.
DINOV2_LARGE = _large(
    patch_size=14, pos_embed_grid=37, layer_scale=True, num_registers=0, class_pos_embed=True
)
# ViT-B, which REPA and REPA-E align with.
DINOV2_BASE = dataclasses.replace(
    DINOV2_LARGE, hidden_size=768, depth=12, num_heads=12, mlp_hidden=3072
)
MAE_LARGE = _large(
    patch_size=16, pos_embed_grid=14, layer_scale=False, num_registers=0, class_pos_embed=True
)
DINOV3_LARGE = _large(
    patch_size=16,
    pos_embed_grid=0,
    layer_scale=True,
    num_registers=4,
    class_pos_embed=False,
    qkv_bias=False,
    norm_eps=1e-5,
    rotary_base=100.0,
)
# ViT-L/14 at 224, and So400m/16 at 256: those of FDr6.
CLIP_LARGE = _large(
    patch_size=14,
    pos_embed_grid=16,
    layer_scale=False,
    num_registers=0,
    class_pos_embed=True,
    patch_bias=False,
    norm_pre=True,
    norm_eps=1e-5,
    activation="quick_gelu",
    projection=768,
)
SIGLIP2_SO400M = _large(
    patch_size=16,
    hidden_size=1152,
    depth=27,
    mlp_hidden=4304,
    pos_embed_grid=16,
    layer_scale=False,
    num_registers=0,
    class_pos_embed=False,
    class_token=False,
    activation="gelu_tanh",
    attention_pool=True,
)
