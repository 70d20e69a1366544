"""Group normalization of images by sums per channel, with a backward pass of its own.

Channels fill the lanes of a TPU. A mean over groups cuts them into pieces of a few and costs a pass
over all pixels for each term of its derivative. Here only sums over pixels are passes, two forwards
and two backwards; groups meet in [B, C], and remat keeps what was summed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name


class GroupNorm(nnx.GroupNorm):
    """nnx.GroupNorm, the variance about the mean, in float32. Wu & He 2018.

    [B, ..., C] -> the same in the layer's dtype.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # without a mask
        scale, bias = self.scale, self.bias
        assert scale is not None and bias is not None
        out = group_norm(x, scale[...], bias[...], self.num_groups, self.epsilon)
        return out.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, num_groups: int, epsilon: float
) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) scale + bias, mean and variance of a group.

    x: [B, ..., C], scale and bias [C] -> [B, ..., C], float32 or wider; a group is C / num_groups
    neighboring channels of an image.
    """
    return _forward(x, scale, bias, num_groups, epsilon)[0]


# One program where it is called outside of any, and none of its own within one.
@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, num_groups: int, epsilon: float
) -> tuple[jax.Array, Any]:
    mean = _group_means(_sums(x), x, num_groups)
    variance = _group_means(_sums(jnp.square(_centered(x, mean))), x, num_groups)
    inverse = jax.lax.rsqrt(variance + epsilon)
    mean, inverse = checkpoint_name(mean, "norm"), checkpoint_name(inverse, "norm")
    out = _centered(x, mean) * _over_pixels(inverse * scale, x) + bias
    return out, (x, scale, mean, inverse)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _backward(
    num_groups: int, epsilon: float, kept: Any, grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = kept
    grad = _wide(grad)
    total = _sums(grad)
    along = _sums(grad * _centered(x, mean)) * inverse  # with the normalized x
    shift = _group_means(total * scale, x, num_groups) * inverse
    slope = _group_means(along * scale, x, num_groups) * jnp.square(inverse)
    grad_x = grad * _over_pixels(inverse * scale, x) - _centered(x, mean) * _over_pixels(slope, x)
    grad_x = (grad_x - _over_pixels(shift, x)).astype(x.dtype)
    return grad_x, along.sum(0), total.sum(0)


group_norm.defvjp(_forward, _backward)


def _sums(x: jax.Array) -> jax.Array:
    """Over the pixels of an image. [B, ..., C] -> [B, C]."""
    return _wide(x).sum(tuple(range(1, x.ndim - 1)))


def _group_means(sums: jax.Array, x: jax.Array, num_groups: int) -> jax.Array:
    """Means over groups from the sums of x's channels, for each of its channels. [B, C]."""
    groups = sums.reshape(len(sums), num_groups, -1)
    means = groups.sum(-1) * (num_groups * len(x) / x.size)
    return jnp.repeat(means, groups.shape[-1], axis=1)


def _over_pixels(x: jax.Array, like: jax.Array) -> jax.Array:
    """[B, C] -> [B, 1, ..., C]."""
    return x.reshape(len(x), *[1] * (like.ndim - 2), -1)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _centered(x: jax.Array, mean: jax.Array) -> jax.Array:
    return _wide(x) - _over_pixels(mean, x)
