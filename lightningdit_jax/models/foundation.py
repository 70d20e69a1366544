"""What a vision foundation model has to offer for latents to be aligned with it."""

from typing import NamedTuple, Protocol

import jax


class Normalization(NamedTuple):
    """Mean and standard deviation a channel, of pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # pixels in [-1, 1]
OPENAI_CLIP = Normalization(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


class FoundationConfig(Protocol):
    """Of an architecture. patch_size: pixels along a side of a patch; hidden_size: width D."""

    @property
    def patch_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...


class FoundationModel(Protocol):
    """Features of patches."""

    config: FoundationConfig

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, H / patch_size, W / patch_size, D]."""


def patch_grid(images: jax.Array, patch: int) -> tuple[int, int]:
    """Patches along the sides of images [B, H, W, 3], (H / patch, W / patch).

    Raises ValueError if the patch does not divide the sides, or the images are not RGB.
    """
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images have shape {images.shape}; expected [B, H, W, 3]")
    if images.shape[1] % patch or images.shape[2] % patch:
        raise ValueError(
            f"images are {images.shape[1]} x {images.shape[2]}; expected sides that are "
            f"multiples of {patch}: resize them"
        )
    return images.shape[1] // patch, images.shape[2] // patch
