"""What ADM's evaluator says of samples by their features in the Inception network."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lightningdit_jax.evaluation.error_bars import without
from lightningdit_jax.evaluation.frechet import Moments, distance_from
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.precision_recall import coverage
from lightningdit_jax.evaluation.reference_moments import ReferenceMoments
from lightningdit_jax.inference.quality.features import Features
from lightningdit_jax.inference.quality.metric import Judgment


class AdmNumbers:
    """FID, sFID, Inception Score, precision and recall.

    reference: moments of the real images. real: pool features [M, D] of those in the file.
    """

    def __init__(self, reference: ReferenceMoments, real: np.ndarray):
        self._fid, self._sfid = map(distance_from, (reference.pool, reference.spatial))
        self._real = real

    def judgment(
        self, found: Features, blocks: Sequence[np.ndarray], labels: np.ndarray | None
    ) -> Judgment:
        """All of them by features of samples. blocks: left out in turn; none for no error bars.

        labels: as for random_blocks.
        """
        pool, spatial, logits = (found[name] for name in ("pool", "spatial", "logits"))
        count = len(pool)
        covered = coverage(self._real, pool, blocks or [np.arange(count)])
        numbers = {
            "fid": self._fid(Moments.of(pool).gaussian),
            "sfid": self._sfid(Moments.of(spatial).gaussian),
            "inception_score": inception_score(logits),
            **dataclasses.asdict(covered.whole()),
        }
        if not blocks:
            return Judgment(numbers)
        bars = frechet_bars("fid", self._fid, [pool], blocks, labels)
        bars |= frechet_bars("sfid", self._sfid, [spatial], blocks, labels)
        left_out = [
            {
                "inception_score": inception_score(logits[without(block, count)]),
                **dataclasses.asdict(covered.without(number, block)),
            }
            for number, block in enumerate(blocks)
        ]
        return Judgment.of(numbers, bars, left_out)
