"""The probe against scikit-learn's ridge classifier, fitted once for each sample left out."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from lightningdit_jax.evaluation import linear_probe
from lightningdit_jax.evaluation.linear_probe import probe_accuracy

LABELS = np.repeat([3, 5, 9], [12, 20, 8])


def features(dim, margin):
    """Noise about a mean of each class, of several scales, and a feature that does not vary."""
    rng = np.random.default_rng(1)
    means = margin * rng.normal(size=(10, dim))
    x = (means[LABELS] + rng.normal(size=(40, dim))) * np.geomspace(0.1, 10, dim)
    return np.concatenate([x, np.full((40, 1), 7.0)], axis=1)


@pytest.mark.parametrize("dim", [5, 60])
@pytest.mark.parametrize("strength", [1e-3, 0.3])
def test_it_is_a_ridge_classifier_on_each_left_out(dim, strength, monkeypatch):
    monkeypatch.setattr(linear_probe, "STRENGTHS", (strength,))
    x = features(dim, 1 / np.sqrt(dim))
    deviation = x.std(0)
    standard = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    ridge = RidgeClassifier(alpha=strength * 40)
    said = cross_val_predict(ridge, standard, LABELS, cv=LeaveOneOut())
    got = probe_accuracy(x, LABELS)
    assert got == np.mean(said == LABELS) and 0.3 < got < 1


def test_strength_is_chosen_by_what_is_left_out():
    """Of many features that say little a strong ridge reads more; the weakest reads noise."""
    x = np.concatenate([features(3, 1.0), np.random.default_rng(2).normal(size=(40, 36))], axis=1)
    weak = linear_probe.STRENGTHS[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "STRENGTHS", weak)
        without_choice = probe_accuracy(x, LABELS)
    assert probe_accuracy(x, LABELS) > without_choice


def test_classes_apart_are_told_and_one_class_is_refused():
    assert probe_accuracy(features(8, 6.0), LABELS) == 1
    with pytest.raises(ValueError, match="labels are of one class"):
        probe_accuracy(features(3, 1.0), np.zeros(40))
