"""Numbers of samples as they are drawn, without a file of them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.data.digits import digits_to_8x8
from lightningdit_jax.evaluation.frechet import MomentsStream, frechet_distance
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.inference.quality.digits import check_digits, digits_judge
from lightningdit_jax.inference.quality.fid import check_inception_options, open_reference
from lightningdit_jax.inference.quality.inception import ImagesInMemory, InceptionNetwork

# (batches of images, labels of all of them) -> numbers
Quality = Callable[[Iterator[np.ndarray], np.ndarray], dict[str, float]]


def make_quality(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
    """quality(batches of images uint8 [b, H, W, 3], labels of all of them [N]) -> numbers.

    evaluate.metric "fid" gives `fid` and `inception_score`, "digits" `digits_fid` and
    `recognised_share`. class_names: of the generator, () where they are not known. All processes
    have to call it. Raises ValueError or FileNotFoundError for an Inception network or a reference
    that are missing or do not fit, and for a metric of other classes.
    """
    if config.evaluate.metric != "digits":
        return _fid(config, mesh)
    check_digits(class_names)
    return _digits_quality


def _digits_quality(batches: Iterator[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    judge, digits = digits_judge(), digits_to_8x8(np.concatenate(list(batches)))
    return {
        "digits_fid": judge.frechet_distance(digits),
        "recognised_share": judge.recognised_share(digits, labels),
    }


def _fid(config: Config, mesh: Mesh) -> Quality:
    options = config.evaluate
    check_inception_options(options)
    network = InceptionNetwork(options.inception, options.batch_size, mesh)
    reference = open_reference(options.reference, network).pool

    def quality(batches: Iterator[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        pool, logits = MomentsStream(len(reference.mean)), []
        for images in batches:
            features = network.features(ImagesInMemory(images), len(images))
            pool.add(features["pool"])
            logits.append(features["logits"])
        return {
            "fid": frechet_distance(*reference, *pool.moments().gaussian),
            "inception_score": inception_score(np.concatenate(logits)),
        }

    return quality
