"""How far a Fréchet distance is from that of other samples, and from that of infinitely many."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lightningdit_jax.evaluation.error_bars import ErrorBar, of_jackknife, random_blocks
from lightningdit_jax.evaluation.frechet import Moments

PARTS = 8  # of the samples, whose sets the distance is extrapolated from
LEAST_PER_DIM = 2  # samples a dimension in a part
INFINITY = "_infinity"  # ends the name of a number that is extrapolated

# Of as many Gaussians as there are arrays of features.
Distance = Callable[..., float]


def frechet_bars(
    name: str,
    distance: Distance,
    features: Sequence[np.ndarray],
    blocks: Sequence[np.ndarray],
    labels: np.ndarray | None = None,
) -> dict[str, ErrorBar]:
    """A distance of N samples with its error, `name`, and what more samples tend to, NAME_infinity.

    features: [N, D], one or more arrays of the same samples. distance(*gaussians): of the Gaussians
    of these, from something fixed where there is one, from each other where there are two. blocks:
    of the samples' indices, each in one, for the jackknife. labels: as for random_blocks.

    A distance of N samples is too large by about a constant over N. `NAME_infinity` is the
    intercept of a line in 1/N through its means over the 8 eighths of the samples, the 4 quarters,
    the 2 halves, and the whole, weighted by the size of a set (Chong & Forsyth 2020, arXiv
    1911.07023, who take 15 subsets at random; here every mean is of all samples, so that what they
    have in common by chance cancels). Its error joins those of the distance and of the fit. It is
    left out for fewer than 16 D samples. Costs len(blocks) + 15 distances.
    """
    count, dim = features[0].shape
    whole = [Moments.of(x) for x in features]
    left_out = []
    for block in blocks:
        rest = [m.without(Moments.of(x[block])) for m, x in zip(whole, features)]
        left_out.append(distance(*(m.gaussian for m in rest)))
    value = distance(*(m.gaussian for m in whole))
    bar = of_jackknife(value, left_out)
    if count < PARTS * LEAST_PER_DIM * dim:
        return {name: bar}
    sizes, means = [count], [value]
    parts = [
        [Moments.of(x[part]) for x in features] for part in random_blocks(count, PARTS, labels)
    ]
    while len(parts) > 1:
        sizes.append(count // len(parts))
        means.append(float(np.mean([distance(*(m.gaussian for m in part)) for part in parts])))
        parts = [[a.merge(b) for a, b in zip(*pair)] for pair in zip(parts[::2], parts[1::2])]
    intercept, fit_error = _intercept(1 / np.array(sizes), np.array(means))
    error = math.hypot(bar.standard_error, fit_error)
    return {name: bar, name + INFINITY: ErrorBar(intercept, error, bar.degrees)}


def _intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of the line through points of weight 1 / x, and its standard error by what is left over."""
    root = np.sqrt(1 / x)
    design = np.stack([np.ones_like(x), x], axis=1) * root[:, None]
    solution = np.linalg.lstsq(design, y * root)[0]
    residual = y * root - design @ solution
    variance = residual @ residual / (len(x) - 2)
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    return float(solution[0]), error
