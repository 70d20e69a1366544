"""The architecture of LightningDiT, and its published sizes."""

import dataclasses
from typing import Any

from lightningdit_jax.errors import unknown_name

# Sizes as in the release; L/1 stands in the paper only.
_SIZES = {
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
    "1p0B": {"depth": 24, "hidden_size": 1536, "num_heads": 24},
    "1p6B": {"depth": 28, "hidden_size": 1792, "num_heads": 28},
}
VARIANTS: dict[str, dict[str, int]] = {
    f"{size}/{patch}": dims | {"patch_size": patch}
    for size, dims in _SIZES.items()
    for patch in (1, 2)
}


def variant_dims(name: str) -> dict[str, int]:
    """depth, hidden_size, num_heads and patch_size of a variant such as "XL/1".

    Raises ValueError naming the nearest variant and all of them.
    """
    if name not in VARIANTS:
        raise ValueError(unknown_name("variant", name, tuple(VARIANTS)))
    return dict(VARIANTS[name])


@dataclasses.dataclass(frozen=True)
class LightningDiTConfig:
    """Architecture of LightningDiT. Raises ValueError naming the field that does not fit.

    input_size is the side of the square latent. With class_dropout_prob > 0 the label table has
    one row more, the null class at index num_classes. aux_head_depth: the block after which a
    second final layer stands, counted from 1, for internal guidance; 0 is none, also of checkpoints
    that do not say it.
    """

    input_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float
    num_classes: int
    class_dropout_prob: float
    learn_sigma: bool
    use_qknorm: bool
    use_swiglu: bool
    use_rope: bool
    use_rmsnorm: bool
    wo_shift: bool
    aux_head_depth: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < 1 and field.name != "aux_head_depth":
                raise ValueError(f"{field.name} is {value}; expected at least 1")
        self._check_divides("patch_size", self.patch_size, "input_size", self.input_size)
        self._check_divides("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; expected a multiple of 4 "
                "(sines and cosines of rows and columns)"
            )
        if self.use_rope and self.head_dim % 4:
            raise ValueError(
                f"hidden_size / num_heads is {self.head_dim}; with use_rope expected a multiple "
                "of 4 (pairs of channels for rows and columns)"
            )
        if not 0 <= self.class_dropout_prob < 1:
            raise ValueError(
                f"class_dropout_prob is {self.class_dropout_prob}; expected 0 <= p < 1"
            )
        if self.mlp_hidden < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; expected more, 4.0 say")
        if not 0 <= self.aux_head_depth < self.depth:
            raise ValueError(
                f"aux_head_depth is {self.aux_head_depth}; expected 0, no second head, or the "
                f"number of a block before the last, below depth={self.depth}"
            )

    @staticmethod
    def _check_divides(part: str, divisor: int, whole: str, value: int) -> None:
        if value % divisor:
            raise ValueError(f"{whole} is {value}; expected a multiple of {part}={divisor}")

    @property
    def latent_numbers(self) -> int:
        """Numbers of a latent."""
        return self.input_size**2 * self.in_channels

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.input_size // self.patch_size

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_hidden(self) -> int:
        """Width F of the MLP; SwiGLU takes two thirds, to have as many parameters."""
        hidden = int(self.hidden_size * self.mlp_ratio)
        return int(2 / 3 * hidden) if self.use_swiglu else hidden

    @property
    def out_channels(self) -> int:
        """Channels of the output layer; learn_sigma doubles them (DiT)."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def num_labels(self) -> int:
        """Rows of the label table."""
        return self.num_classes + (self.class_dropout_prob > 0)


def variant_config(variant: str, **fields: Any) -> LightningDiTConfig:
    """The architecture of a variant; fields that are not None override its sizes.

    Raises ValueError as variant_dims and LightningDiTConfig.
    """
    sizes = variant_dims(variant)
    sizes |= {name: fields[name] for name in sizes if fields.get(name) is not None}
    return LightningDiTConfig(**(fields | sizes))
