"""The product of a linear layer, with a backward pass of its own.

Automatic differentiation asks for a kernel's gradient transposed and turns it afterwards, for which
XLA for CPUs turns an operand in memory and then takes its slowest product: twice the time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """Sum over the last axes of x and the first of the kernel, `axes` of each.

    x: [..., *inputs], kernel: [*inputs, *outputs] -> [..., *outputs]. All of one type, gradients
    too.
    """
    return jnp.tensordot(x, kernel, axes)


def _forward(x: jax.Array, kernel: jax.Array, axes: int) -> tuple[jax.Array, Any]:
    return product(x, kernel, axes), (x, kernel)


def _backward(axes: int, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - axes))
    outputs = tuple(range(len(rows), grad.ndim)), tuple(range(axes, kernel.ndim))
    return jnp.tensordot(grad, kernel, outputs), jnp.tensordot(x, grad, (rows, rows))


product.defvjp(_forward, _backward)


def dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **_: Any) -> jax.Array:
    """`product` as nnx.LinearGeneral asks for it. dimension_numbers: those of such a product."""
    (contracted, _), _ = dimension_numbers
    return product(x, kernel, len(contracted))
