"""What a linear classifier reads of features, tested on each sample by one fitted on the others."""

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # of the ridge, times the samples


def probe_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose label a linear classifier says that all others were fitted on. 0 to 1.

    features [N, D], brought to mean 0 and deviation 1; labels [N]. The classifier is ridge
    regression with an intercept to 1 for a sample's class and -1 for all others, and says the class
    of the highest value; its strength is that of STRENGTHS with the least squared error of what is
    left out. In closed form, of one singular value decomposition: no seed, and no split. Raises
    ValueError for labels of one class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("labels are of one class; a probe tells two or more apart")
    x = np.asarray(features, np.float64)
    deviation = x.std(0)
    u, s, _ = np.linalg.svd((x - x.mean(0)) / np.where(deviation > 0, deviation, 1), False)
    target = np.where(numbers[:, None] == np.arange(len(classes)), 1.0, -1.0)
    mean = target.mean(0)
    along = u.T @ (target - mean)
    least, said = np.inf, numbers
    for strength in STRENGTHS:
        kept = s**2 / (s**2 + strength * len(x))
        leverage = np.square(u) @ kept + 1 / len(x)
        # A sample's error without it is its error with it over 1 less its leverage.
        error = (target - mean - u @ (kept[:, None] * along)) / (1 - leverage)[:, None]
        if (total := np.square(error).sum()) < least:
            least, said = total, (target - error).argmax(1)
    return float(np.mean(said == numbers))
