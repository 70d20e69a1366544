"""Maximum mean discrepancy of two sets of features: KID and CMMD. Gretton et al. 2012.

With k a kernel, MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y). Kernels are float32, their sums
float64. Of all pairs there are, not of subsets drawn at random, so that no seed decides.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lightningdit_jax.evaluation.error_bars import LeftOut
from lightningdit_jax.evaluation.squared_distances import BLOCK, checked_pair

# (inner products, squared norms of one and of the other, all of one shape or stretched to it)
# -> kernel, in the place of the products
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

SIGMA, SCALE = 10.0, 1000.0  # Jayasumana et al. 2024, sec. 4


def kid(reference: np.ndarray, samples: np.ndarray, blocks: Sequence[np.ndarray] = ()) -> LeftOut:
    """Kernel distance of samples [N, D] from reference [M, D]. Binkowski et al. 2018.

    The unbiased estimate of MMD^2 of the kernel (x y / D + 1)^3; around 0 for sets that are alike,
    where it may be negative. Not times 1000, as some tables have it. torch-fidelity's mean over
    subsets has the same expectation. blocks: of the samples' indices, each in one, for a jackknife.
    Raises ValueError for other shapes, fewer than two, or values that are not finite.
    """
    dim = np.shape(samples)[-1]

    def cubic(products: np.ndarray, a_norms: np.ndarray, b_norms: np.ndarray) -> np.ndarray:
        products /= dim
        products += 1
        return np.multiply(products * products, products, out=products)

    return _discrepancy(reference, samples, blocks, cubic, is_biased=False)


def cmmd(reference: np.ndarray, samples: np.ndarray, blocks: Sequence[np.ndarray] = ()) -> LeftOut:
    """CMMD of samples [N, D] from reference [M, D], embeddings of CLIP of norm 1.

    1000 times the estimate of least variance (with the pairs of each with itself) of MMD^2 of the
    kernel exp(-|x - y|^2 / (2 sigma^2)), sigma = 10. Jayasumana et al. 2024, and their program.
    blocks and what is raised: as for kid.
    """

    def gaussian(products: np.ndarray, a_norms: np.ndarray, b_norms: np.ndarray) -> np.ndarray:
        # Less 1, which no discrepancy sees: all digits are left for the kernels' differences.
        products *= -2
        products += a_norms
        products += b_norms
        products /= -2 * SIGMA**2
        return np.expm1(products, out=products)

    return _discrepancy(reference, samples, blocks, gaussian, is_biased=True, scale=SCALE)


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Pairs of a set's members: the sum of their kernels, of the `own` each has with itself."""

    count: int
    total: float
    own: float

    def mean(self, is_biased: bool) -> float:
        if is_biased:
            return self.total / self.count**2
        return (self.total - self.own) / (self.count * (self.count - 1))


def _discrepancy(
    reference: np.ndarray,
    samples: np.ndarray,
    blocks: Sequence[np.ndarray],
    kernel: Kernel,
    *,
    is_biased: bool,
    scale: float = 1.0,
) -> LeftOut:
    reference, samples = checked_pair(reference, samples, 2)
    real, drawn = (np.asarray(a, np.float32) for a in (reference, samples))
    real_pairs = _Pairs(len(real), float(_sums(real, real, kernel).sum()), _own(real, kernel).sum())
    among, own = _sums(drawn, drawn, kernel), _own(drawn, kernel)
    across = _sums(drawn, real, kernel)

    def value(pairs: _Pairs, across_total: float) -> float:
        between = across_total / (pairs.count * len(real))
        means = pairs.mean(is_biased) + real_pairs.mean(is_biased)
        return float(scale * (means - 2 * between))

    whole = _Pairs(len(drawn), among.sum(), own.sum())
    left_out = []
    for block in blocks:
        within = _sums(drawn[block], drawn[block], kernel).sum()
        rest = _Pairs(
            whole.count - len(block),
            whole.total - 2 * among[block].sum() + within,
            whole.own - own[block].sum(),
        )
        left_out.append(value(rest, across.sum() - across[block].sum()))
    return LeftOut(value(whole, across.sum()), left_out)


def _sums(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Of each of a, its kernels with all of b. [N, D], [M, D] -> float64 [N]."""
    sums = np.zeros(len(a))
    a_norms, b_norms = (np.einsum("nd,nd->n", x, x) for x in (a, b))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        # Kernels are symmetric: of a set with itself half of them is enough.
        columns = slice(start if a is b else 0, len(b))
        values = kernel(a[rows] @ b[columns].T, a_norms[rows, None], b_norms[columns])
        sums[rows] += values.sum(axis=1, dtype=np.float64)
        if a is b:
            sums[start + BLOCK :] += values[:, BLOCK:].sum(axis=0, dtype=np.float64)
    return sums


def _own(a: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Of each its kernel with itself. [N, D] -> [N]."""
    norms = np.einsum("nd,nd->n", a, a)
    return kernel(norms.copy(), norms, norms).astype(np.float64)
