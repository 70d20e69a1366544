"""Patches of another size: resizing as a matrix, and kernels that agree with it.

FlexiViT (Beyer et al. 2023, arXiv 2212.08013), sec. 3.4. Arrays are cut into [p, p, ...] here.
"""

import jax
import jax.numpy as jnp
import numpy as np


def resize_matrix(old: int, new: int) -> np.ndarray:
    """B with B x the bilinear resize of a side x, float64 [new, old]; shrinking is antialiased.

    As jax.image.resize: centers of pixels at halves, weights at the borders normalized.
    """
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.abs(centers[:, None] - np.arange(old)) / max(old / new, 1.0)
    weights = np.maximum(1.0 - weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized_input(kernel: jax.Array, new: int) -> jax.Array:
    """A kernel that sees resized patches. [p, p, ...] -> [new, new, ...].

    Inner products with patches that are enlarged stay what they were, of patches made smaller they
    are as near as can be: the pseudoinverse of the transposed resize.
    """
    return _by_side(kernel, np.linalg.pinv(resize_matrix(len(kernel), new).T))


def resized_output(kernel: jax.Array, new: int) -> jax.Array:
    """A kernel whose patches are those it made, resized. [p, p, ...] -> [new, new, ...]."""
    return _by_side(kernel, resize_matrix(len(kernel), new))


def _by_side(kernel: jax.Array, matrix: np.ndarray) -> jax.Array:
    side = jnp.asarray(matrix, jnp.float32)
    return jnp.einsum("ai,bj,ij...->ab...", side, side, kernel, precision="highest")
