"""Inception Score against closed forms and the definition."""

import numpy as np
import pytest

from lightningdit_jax.evaluation.inception_score import inception_score


def test_certain_and_even_over_the_classes_scores_their_number():
    logits = np.tile(1000 * np.eye(8, dtype=np.float32), (3, 1))
    assert inception_score(logits) == pytest.approx(8, rel=1e-12)


def test_samples_all_alike_score_one():
    logits = np.tile(np.random.default_rng(0).normal(size=8), (20, 1))
    assert inception_score(logits) == pytest.approx(1, rel=1e-12)


def test_two_classes_told_apart_with_some_doubt():
    # Half the samples say (q, 1 - q), half the reverse: log score = log 2 - entropy(q).
    q = 0.8
    logits = np.log([[q, 1 - q], [1 - q, q]] * 5)
    want = 2 * np.exp(q * np.log(q) + (1 - q) * np.log(1 - q))
    assert inception_score(logits) == pytest.approx(want, rel=1e-12)


def test_splits_are_scored_apart_and_the_short_last_one_counts_fully():
    # Splits of 4: two classes, then one class, then three samples of three classes.
    logits = 1000.0 * np.eye(3)[[0, 1, 0, 1, 2, 2, 2, 2, 0, 1, 2]]
    assert inception_score(logits, split_size=4) == pytest.approx((2 + 1 + 3) / 3, rel=1e-12)
    assert inception_score(logits) != pytest.approx(2, rel=1e-2)


def test_general_logits_follow_the_definition():
    logits = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    divergence = sum(row @ np.log(row / p.mean(0)) for row in p) / len(p)
    assert inception_score(logits) == pytest.approx(np.exp(divergence), rel=1e-12)
    # A constant added to a sample's logits changes no probability.
    assert inception_score(logits + 500) == pytest.approx(np.exp(divergence), rel=1e-4)


def test_bad_logits_are_named():
    with pytest.raises(ValueError, match=r"shape \(0, 8\); expected \[N, classes\]"):
        inception_score(np.zeros((0, 8)))
    with pytest.raises(ValueError, match="not finite"):
        inception_score(np.full((2, 8), np.nan))
    with pytest.raises(ValueError, match="split_size is 0"):
        inception_score(np.zeros((2, 8)), split_size=0)
