"""Products of float8 numbers with delayed scaling.

What goes into a product is rounded to float8 and taken out of it again; XLA makes the library's
float8 product of that where there is one. Inputs and kernels are e4m3, gradients e5m2, each
multiplied before by a scale that was chosen from the largest magnitudes of the steps before
(Micikevicius et al. 2022, arXiv 2209.05433; Transformer Engine's recipe `DelayedScaling`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.models.product import product

Tree = dict[str, Any]
HISTORY = 16  # steps that a scale is chosen from
E4M3, E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2
SCALES = "scales"  # where a layer has its Scales


class Scales(nnx.Variable):
    """Of a layer's products, [2 + parts]: of its input, its kernel, and each part's gradient.

    As its gradient a Scales has the largest magnitudes of just these, infinities and NaN too.
    """


class Float8Linear(nnx.LinearGeneral):
    """A linear layer whose products are of float8 numbers. parts: that its kernel has, [D, P, ..].

    With biases, sums and outputs in the layer's dtype. See nnx.LinearGeneral.
    """

    def __init__(self, *args: Any, parts: int = 1, **options: Any):
        super().__init__(*args, **options)
        self.scales = Scales(jnp.ones(2 + parts, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """[..., *in_features] -> [..., *out_features]."""
        assert self.bias is not None
        kernel, bias = (p[...].astype(self.dtype) for p in (self.kernel, self.bias))
        return self.product(x.astype(self.dtype), kernel, len(self.axis)) + bias

    def product(self, x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
        """As models.product of a kernel of one part, all three products of float8 numbers."""
        x, kernel = self.rounded(x, kernel)
        return self.with_rounded_gradients([product(x, kernel, axes)])[0]

    def rounded(self, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both as float8 holds them, in their own types."""
        scales = self.scales[...]
        return through_float8(x, scales[0]), through_float8(kernel, scales[1])

    def with_rounded_gradients(self, parts: list[jax.Array]) -> list[jax.Array]:
        """The parts' products, to which float8 gradients will arrive."""
        return [float8_gradient(y, s) for y, s in zip(parts, self.scales[2:], strict=True)]


@jax.custom_vjp
def through_float8(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x as e4m3 holds it at a scale, in x's type; what does not fit is clipped.

    x: of two axes or more. The gradient passes; that of scale is the largest magnitude in x.
    """
    return _rounded(x, scale, E4M3)


def _through_forward(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return through_float8(x, scale), _largest(x)


def _through_backward(largest: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    return grad, largest


through_float8.defvjp(_through_forward, _through_backward)


@jax.custom_vjp
def float8_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x itself; its gradient is rounded to e5m2 at a scale, whose own is the largest magnitude."""
    return x


def _gradient_forward(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, scale


def _gradient_backward(scale: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _rounded(grad, scale, E5M2), _largest(grad)


float8_gradient.defvjp(_gradient_forward, _gradient_backward)


def _rounded(x: jax.Array, scale: jax.Array, dtype: DTypeLike) -> jax.Array:
    limit = float(jnp.finfo(dtype).max)
    number = jnp.clip(x * scale.astype(x.dtype), -limit, limit).astype(dtype)
    return number.astype(x.dtype) * (1 / scale).astype(x.dtype)


def _largest(x: jax.Array) -> jax.Array:
    # Of [B, N, ...] over tokens first, by itself: so XLA sums a bias's gradient in the same pass.
    by_image = jax.lax.optimization_barrier(jnp.max(jnp.abs(x), axis=1))
    return jnp.max(by_image).astype(jnp.float32)


def scales_of(history: jax.Array) -> jax.Array:
    """The scales for a step. history: largest magnitudes, [..., 2 + parts, HISTORY], 0 is none yet.

    -> [..., 2 + parts], powers of two, by which multiplying rounds nothing: the largest that keep
    what was seen within the format. Where nothing was, 1, and of gradients, which are small as the
    loss is a mean, 2**24: 1e-12 to 3e-3 are held then.
    """
    largest = jnp.max(history, axis=-1)
    limits = np.full(largest.shape[-1], jnp.finfo(E5M2).max, np.float32)
    limits[:2] = jnp.finfo(E4M3).max
    _, exponent = jnp.frexp(limits / jnp.where(largest > 0, largest, 1))
    unknown = np.where(np.arange(len(limits)) < 2, 0, 24)
    power = jnp.where(largest > 0, jnp.clip(exponent - 1, -100, 100), unknown)
    return jnp.ldexp(jnp.float32(1), power)


def remembered(history: jax.Array, largest: jax.Array) -> jax.Array:
    """A history after a step that saw these magnitudes, [..., 2 + parts], the newest first."""
    return jnp.concatenate([largest[..., None], history[..., :-1]], axis=-1)


def fresh_histories(model: nnx.Module) -> Tree:
    """Of a model, or an abstract one, that has seen no step; {} without float8 products."""
    scales = nnx.to_pure_dict(nnx.state(model, Scales))
    return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, HISTORY), jnp.float32), scales)


def with_scales(params: Tree, histories: Tree) -> Tree:
    """All that a model with float8 products is merged from: each layer's scales beside its kernel.

    Both are nested dicts; without histories params come back.
    """
    joined = dict(params)
    for key, below in histories.items():
        joined[key] = scales_of(below) if key == SCALES else with_scales(params[key], below)
    return joined


def without_scales(tree: Tree) -> tuple[Tree, Tree]:
    """(parameters, scales): what with_scales has put together, or gradients of it."""
    params, scales = {}, {}
    for key, below in tree.items():
        if key == SCALES:
            scales[key] = below
        elif isinstance(below, dict):
            params[key], theirs = without_scales(below)
            scales |= {key: theirs} if theirs else {}
        else:
            params[key] = below
    return params, scales


def is_scales(name: str) -> bool:
    """Whether a leaf of with_scales, by its name (tree_paths), are scales."""
    return name.rpartition("/")[2] == SCALES
