"""Inception Score: are samples recognizable, and of many classes? Salimans et al. 2016."""

import numpy as np

SPLIT_SIZE = 5000


def inception_score(logits: np.ndarray, split_size: int = SPLIT_SIZE) -> float:
    """exp of the mean KL(p(y|x) || p(y)), averaged over splits. [N, classes] -> 1 to classes.

    logits: of the samples in their order, of the Inception network without its bias. p(y) is the
    mean over a split; the last split may be shorter and counts as much as the others, as in ADM's
    evaluator (Dhariwal & Nichol 2021). Float64. Raises ValueError if there are no samples, a logit
    is not finite, or split_size is not positive.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not logits.size:
        raise ValueError(f"logits have shape {logits.shape}; expected [N, classes], N >= 1")
    if split_size < 1:
        raise ValueError(f"split_size is {split_size}; expected at least 1")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold values that are not finite; check the samples")
    starts = range(0, len(logits), split_size)
    return float(np.mean([_score(logits[start : start + split_size]) for start in starts]))


def _score(logits: np.ndarray) -> float:
    """Of one split."""
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(0)
    # A class that underflows in every sample contributes nothing; it must not give 0 * inf.
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))
    return np.exp((p * (log_p - log_marginal)).sum(1).mean())
