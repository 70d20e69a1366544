"""What averages are made of: the share that the weights of each step of a run have in them.

An average that a run keeps is a sum of the weights after each of its steps with known shares, its
profile. So averages of some steps can be added up to one that was never kept, whose profile theirs
come near to: post-hoc EMA (Karras et al. 2024, arXiv 2312.02696, sec. 3 and app. C). Imports
nothing of ours.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Steps are taken together where a run has more, 6e-5 of it at a time.
_BINS = 2**14


def exponent_of(sigma: float) -> float:
    """gamma of a power-function average of this relative width (eq. 126, algorithm 2).

    sigma: standard deviation of its profile over the steps so far, above 0 and at most
    averages.LARGEST_SIGMA. The density at step s of t is proportional to (s / t) ** gamma.
    """
    inverse = float(sigma) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


@dataclasses.dataclass(frozen=True)
class Profile:
    """Of an average after `step` steps: a power function's of width sigma, or of constant decay.

    sigma: as in exponent_of, 0 for a constant decay. since: the step at which the average began as
    a copy of the weights, which keep their share.
    """

    step: int
    sigma: float = 0.0
    decay: float = 0.0
    since: int = 0

    def cumulative(self, steps: np.ndarray) -> np.ndarray:
        """The share of all weights up to each of these steps. [N] -> float64 [N], rising to 1.

        Exact for what training computes: the decays of a power function multiply to
        (s / t) ** (gamma + 1) from step s to step t (eq. 127).
        """
        before = np.minimum(np.asarray(steps, np.float64), self.step)
        if self.sigma:
            shares = (before / self.step) ** (exponent_of(self.sigma) + 1)
        else:
            shares = self.decay ** (self.step - before)
        return np.where(before >= self.since, shares, 0.0)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Coefficients of averages, float64 [N], whose sum is 1; error: relative, L2, of the profile.

    How far off each weight is goes with the error, times what the weights still move by.
    """

    coefficients: np.ndarray
    error: float


def fit_profile(sources: Sequence[Profile], target: Profile) -> Fit:
    """The sum of averages whose profile is nearest to the target's (eq. 151, algorithm 3).

    Inner products are sums over steps, those of the averages that training really keeps, where the
    paper's closed form is of their limit; so constant decays and averages that began late are
    sources as good. sources: at least one. An average of the very profile is taken alone.
    """
    if target in sources:
        coefficients = np.zeros(len(sources))
        coefficients[list(sources).index(target)] = 1.0
        return Fit(coefficients, 0.0)
    profiles = [*sources, target]
    last = max(profile.step for profile in profiles)
    kinks = [step for profile in profiles for step in (profile.step, profile.since)]
    even = np.linspace(0, last, min(last, _BINS) + 1).round().astype(np.int64)
    ends = np.union1d(even, kinks)
    counts = np.diff(ends, prepend=-1)  # steps of each bin, the first of which is step 0
    shares = np.stack([np.diff(p.cumulative(ends), prepend=0.0) for p in profiles], axis=1)
    shares /= np.sqrt(counts)[:, None]
    wanted, columns = shares[:, -1], shares[:, :-1]
    # All sums are 1 where differences from one of them are added to it.
    base = columns[:, -1]
    differences = columns[:, :-1] - base[:, None]
    gram = differences.T @ differences
    most = np.linalg.lstsq(gram, differences.T @ (wanted - base), rcond=None)[0]
    coefficients = np.append(most, 1.0 - most.sum())
    error = np.linalg.norm(columns @ coefficients - wanted) / np.linalg.norm(wanted)
    return Fit(coefficients, float(error))
