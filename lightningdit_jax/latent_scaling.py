"""How a generator's latents are scaled: the one meaning that statistics and multiplier have."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lightningdit_jax.errors import one_line

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")


@dataclasses.dataclass(frozen=True)
class LatentScaling:
    """(x - mean) / std * multiplier per channel, of the tokenizer's latents x. Hashable.

    mean, std: one number a channel, of any array shape; kept as tuples of float32 values. Both are
    None where latents are only multiplied. Raises ValueError for statistics of different sizes or
    that are not finite, for a std that is not above 0, and for a multiplier that is not either.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            given = "std" if self.mean is None else "mean"
            raise ValueError(f"latent statistics of {given} alone; expected mean and std, or none")
        if self.mean is not None:
            with np.errstate(over="ignore"):  # what overflows is refused below
                mean, std = (np.asarray(v, np.float32).reshape(-1) for v in (self.mean, self.std))
            if mean.size == 0 or mean.shape != std.shape:
                raise ValueError(
                    f"latent statistics have a mean of {mean.size} and a std of {std.size} "
                    "channels; expected one number a channel in both"
                )
            _check_numbers("mean", mean, np.isfinite(mean), "finite numbers")
            _check_numbers("std", std, np.isfinite(std) & (std > 0), "finite numbers above 0")
            object.__setattr__(self, "mean", tuple(mean.tolist()))
            object.__setattr__(self, "std", tuple(std.tolist()))
        object.__setattr__(self, "multiplier", float(self.multiplier))
        with np.errstate(over="ignore"):
            multiplier = np.float32(self.multiplier)
        if not (np.isfinite(multiplier) and multiplier > 0):
            raise ValueError(
                f"the latent multiplier is {self.multiplier}; expected a finite number above 0"
            )

    @classmethod
    def of_arrays(cls, mean: Any, std: Any, multiplier: float = 1.0) -> "LatentScaling":
        """Of what a file or a caller holds as statistics: real numbers, one a channel, in any shape
        with one axis of channels, such as [1, C, 1, 1].

        Raises ValueError for anything else.
        """
        for name, values in (("mean", mean), ("std", std)):
            array = np.asarray(values)
            is_real = array.dtype.kind in "fiu" or "float" in array.dtype.name
            if not is_real or array.size != max(array.shape, default=0):
                raise ValueError(
                    f"latent statistics have a {name} of type {array.dtype} and shape "
                    f"{list(array.shape)}; expected real numbers [C] or [1, C, 1, 1]"
                )
        return cls(mean, std, multiplier)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any] | None) -> "LatentScaling | None":
        """Of what a checkpoint keeps as `latents`; None where it keeps nothing.

        Raises ValueError for what is no such thing.
        """
        try:
            return None if meta is None else cls(**meta)
        except (OverflowError, TypeError, ValueError) as error:
            said = one_line(error)
            raise ValueError(f"a checkpoint's latents are not as they are saved: {said}") from error

    def to_meta(self) -> dict[str, Any]:
        """The inverse of `from_meta`, for JSON."""
        return {
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "multiplier": self.multiplier,
        }

    def __str__(self) -> str:
        """The formula, with its numbers where they are the same in every channel."""
        if self.mean is None or self.std is None:
            return f"x * {self.multiplier:g}"
        if len({*self.mean}) == len({*self.std}) == 1:
            return f"(x - {self.mean[0]:g}) / {self.std[0]:g} * {self.multiplier:g}"
        return f"(x - mean) / std * {self.multiplier:g}, statistics of {self.channels} channels"

    @property
    def channels(self) -> int | None:
        """Number of channels; None where any number will do."""
        return None if self.mean is None else len(self.mean)

    def check_channels(self, channels: int, where: str) -> None:
        """Raises ValueError unless it scales latents of so many channels; where: whose it is."""
        if self.channels not in (None, channels):
            raise ValueError(
                f"{where}: latent statistics of {self.channels} channels, but the latents have "
                f"{channels}; give those of the folder that the generator is trained on"
            )

    def normalize(self, latents: Array) -> Array:
        """Stored latents [B, C, H, W] -> [B, H, W, C] float32, what the generator sees.

        Takes and returns arrays of NumPy or of JAX.
        """
        latents = latents.astype(np.float32)
        if self.mean is not None:
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
            latents = (latents - mean) / std
        if self.multiplier != 1:
            latents = latents * np.float32(self.multiplier)
        return latents.transpose(0, 2, 3, 1)

    def invert(self, latents: Array) -> Array:
        """The generator's latents -> the tokenizer's. [..., C] -> [..., C], float32."""
        latents = latents / self.multiplier
        if self.mean is not None:
            latents = latents * np.array(self.std, np.float32) + np.array(self.mean, np.float32)
        return latents


def _check_numbers(name: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        channel = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"latent statistics have {name} {values[channel]} in channel {channel} of "
            f"{values.size}; expected {expected}"
        )
