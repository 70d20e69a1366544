"""A metric of your own for samples, in every command: main.py with one metric more.

    python examples/own_metric.py --config=outputs/demo/generator --mode=evaluate \
        --config.evaluate.metric=digits_kid

KID, the kernel distance that takes nothing for a Gaussian and has no bias for few samples
(Binkowski et al. 2018, arXiv 1801.01401), of digits, in the features that digits_fid is of. The row
serves --mode=evaluate, --mode=sweep and evaluations while a run trains
(--config.train.evaluate_every_steps), which can keep the best checkpoint by it
(--config.train.best_metric=digits_kid). For other images take the features of a network:
lightningdit_jax.inference.quality.features.FeatureNetwork.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.commands.start import lightningdit
from lightningdit_jax.config import Config
from lightningdit_jax.data.digits import digits_to_8x8
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.inference.quality.digits import digits_judge, real_digits
from lightningdit_jax.inference.quality.evaluated_file import samples_identity, samples_path
from lightningdit_jax.inference.quality.metric import Judgment, Metric, Quality
from lightningdit_jax.inference.quality.metrics import METRICS


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy, without bias: 0 in the mean where both are of one law.

    x [N, D], y [M, D]; the kernel is (x . y / D + 1)^3.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def digits_kid(batches: Iterator[np.ndarray]) -> dict[str, float]:
    """Of samples, batches uint8 [b, H, W, 3], from the training digits."""
    features = digits_judge().classifier.decision_function
    drawn = digits_to_8x8(np.concatenate(list(batches)))
    return {"digits_kid": kernel_distance(features(drawn), features(real_digits("train")[0]))}


def of_file(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any]]:
    """--mode=evaluate: the numbers of WORKDIR/samples.npz, and what they are of."""
    samples = NpzImages(samples_path(config, workdir))
    numbers = digits_kid(samples.batches(1000, 0, len(samples)))
    return Judgment(numbers), {"samples": samples_identity(samples)}


def of_stream(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
    """Sweeps and training: the numbers of samples as they are drawn, and of their labels."""
    return lambda batches, labels: digits_kid(batches)


METRICS["digits_kid"] = Metric(of_file, of_stream, ("digits_kid",))

if __name__ == "__main__":
    lightningdit()
