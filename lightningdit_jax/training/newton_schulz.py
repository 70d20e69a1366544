"""The orthogonalization of matrices that Muon's update is, by products of matrices alone.

Five steps X -> a X + b (X X^T) X + c (X X^T)^2 X bring all singular values to between about 0.7 and
1.2 (Jordan et al. 2024, kellerjordan.github.io/posts/muon). They are computed on the small Gram
matrix X X^T, of which X needs the polynomial alone, in two groups of steps ("Gram Newton-Schulz",
Zhang, Amsel, Chen and Dao 2026, dao-lab.ai/blog/2026/gram-newton-schulz): within a group the error
of bfloat16 in small eigenvalues grows with every step, and a new Gram matrix ends that.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Steps on one Gram matrix. So results are 3 to 5 % from those of float64, of the iteration on X
# itself in bfloat16 1 to 3 %; two steps first are worse, and five in one diverge.
GROUPS = (3, 2)
# A symmetric product is cut down to blocks of this many rows: half the rows of a TPU's tile of
# products cost as much.
BLOCK = 128


def orthogonalize(
    matrices: Sequence[jax.Array], dtype: jax.typing.DTypeLike = jnp.bfloat16
) -> list[jax.Array]:
    """Each [S, R, C], whose singular values it brings near 1; R of all alike and at most C.

    The products are of dtype with float32 sums, what is returned is of dtype. Zeros stay zeros, and
    rows and columns of zeros change nothing.
    """
    found = []
    for x in matrices:
        x = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(x), (-2, -1), keepdims=True))
        found.append((x / (norm + 1e-7)).astype(dtype))
    for steps in GROUPS:
        gram = jnp.concatenate([_symmetric(x, x).astype(dtype) for x in found])
        factor, rest = _polynomial(gram, steps)
        ends = [sum(len(x) for x in found[: i + 1]) for i in range(len(found) - 1)]
        parts = jnp.split(rest, ends)
        found = [
            (factor * _wide(x) + _product(part, x)).astype(dtype)
            for part, x in zip(parts, found, strict=True)
        ]
    return found


def orthogonalization_flops(rows: int, cols: int) -> float:
    """Of one matrix; rows at most cols."""
    small = sum(4 * steps - 3 for steps in GROUPS)  # symmetric products of rows by rows
    wide = len(GROUPS)
    share = _symmetric_share(rows)
    return 2.0 * rows**2 * (share * (small * rows + wide * cols) + wide * cols)


def _symmetric_share(rows: int) -> float:
    """Of the FLOPs of a whole product, what _symmetric takes."""
    parts = _parts(rows)
    return (
        1.0 if parts == 1 else (parts - 1) / (2 * parts) + _symmetric_share(rows // parts) / parts
    )


def _parts(rows: int) -> int:
    return next((p for p in (3, 2) if rows % p == 0 and rows // p >= BLOCK), 1)


def _polynomial(gram: jax.Array, steps: int) -> tuple[float, jax.Array]:
    """(f, Q) of which f I + Q is what X is multiplied by in some steps. gram: X X^T [S, R, R].

    A multiple of I apart, so that rounding to gram's type is of what is small beside it.
    """
    a, b, c = COEFFICIENTS
    dtype, factor, rest = gram.dtype, a, None
    for step in range(steps):
        z = (b * _wide(gram) + c * _symmetric(gram, gram)).astype(dtype)
        if rest is None:
            rest = z
        else:
            rest = (a * _wide(rest) + factor * _wide(z) + _symmetric(rest, z)).astype(dtype)
            factor *= a
        if step < steps - 1:  # (a I + Z)^2 times the Gram matrix is that of the next X
            once = (a * _wide(gram) + _symmetric(gram, z)).astype(dtype)
            gram = (a * _wide(once) + _symmetric(once, z)).astype(dtype)
    assert rest is not None
    return factor, rest


def _symmetric(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y^T [..., R, R] in float32 where that is symmetric, as of polynomials of one matrix.

    x, y: [..., R, C]. What is below the diagonal is not computed but mirrored, save in the blocks
    on it: of 1,152 rows that leaves 5/9 of the FLOPs. The result is symmetric to the bit. A product
    with rounding's asymmetry in it would spoil the next: powers of a matrix and of its transpose
    mixed do not commute, and small eigenvalues drown.
    """
    rows = x.shape[-2]
    parts = _parts(rows)
    if parts == 1:
        whole = _product(x, jnp.swapaxes(y, -1, -2))
        return (whole + jnp.swapaxes(whole, -1, -2)) / 2
    size = rows // parts
    blocks = (*x.shape[:-2], parts, size, x.shape[-1])
    on_diagonal = _symmetric(x.reshape(blocks), y.reshape(blocks))
    right = [
        _product(
            x[..., i * size : (i + 1) * size, :], jnp.swapaxes(y[..., (i + 1) * size :, :], -1, -2)
        )
        for i in range(parts - 1)
    ]

    def block(i: int, j: int) -> jax.Array:
        """[..., size, size]"""
        if i == j:
            return on_diagonal[..., i, :, :]
        if i > j:
            return jnp.swapaxes(block(j, i), -1, -2)
        return right[i][..., (j - i - 1) * size : (j - i) * size]

    rows_of_blocks = [
        jnp.concatenate([block(i, j) for j in range(parts)], axis=-1) for i in range(parts)
    ]
    return jnp.concatenate(rows_of_blocks, axis=-2)


def _wide(x: jax.Array) -> jax.Array:
    """In float32, in which terms are added that cancel."""
    return x.astype(jnp.float32)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """With sums in float32, of what is float32 without rounding it first."""

    def exact(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.matmul(_wide(x), _wide(y), precision=jax.lax.Precision.HIGHEST)

    def narrow(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.matmul(x, y, preferred_element_type=jnp.float32)

    if x.dtype == jnp.float32:
        return exact(x, y)
    # XLA for CPUs lacks such a product in places (findings/xla_cpu_transposed_product.sh).
    return jax.lax.platform_dependent(x, y, cpu=exact, default=narrow)
