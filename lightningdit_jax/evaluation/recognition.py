"""An independent judge of generated digits: a scikit-learn classifier fitted on real ones."""

from typing import Protocol

import numpy as np


class Classifier(Protocol):
    """What the evaluation needs of a scikit-learn estimator."""

    def predict(self, x: np.ndarray) -> np.ndarray: ...


def fit_classifier(x: np.ndarray, labels: np.ndarray) -> Classifier:
    """A support vector classifier on pixels. x [N, D] float, labels [N] int.

    Radial basis functions of width 1 / (D var(x)) and C = 10 reach about 99 % on real digits.
    """
    from sklearn.svm import SVC

    return SVC(C=10.0, gamma="scale").fit(x, labels)
