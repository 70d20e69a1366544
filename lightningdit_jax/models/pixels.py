"""Pixels as files have them and as models see them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def to_model_range(images: ArrayLike) -> jax.Array:
    """Pixels uint8 0..255 -> float32 in [-1, 1], what a tokenizer encodes. Any shape.

    Raises ValueError for another type: floats are of a range that no type tells.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise ValueError(f"images are {images.dtype}; expected uint8, pixels from 0 to 255")
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: ArrayLike) -> jax.Array:
    """A decoder's output to pixels: clamp(127.5 x + 128, 0, 255), truncated. [...] -> [...] uint8.

    Not finite values have no pixel: outside of jit they raise FloatingPointError, within it the
    caller has to ask. Raises ValueError for images that are not floating point.
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; expected floats, about -1 to 1")
    if not isinstance(images, jax.core.Tracer) and not jnp.isfinite(images).all():
        raise FloatingPointError("images hold values that are not finite; they have no pixels")
    # Clamped between product and sum, which is the same number: a sum that took the product
    # directly is contracted to one fused multiply-add under jit, whose single rounding moves pixels
    # by one.
    product = 127.5 * images.astype(jnp.float32)
    return (jnp.clip(product, -128.0, 127.0) + 128.0).astype(jnp.uint8)
