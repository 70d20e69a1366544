"""FID, sFID, Inception Score, precision and recall of samples, as ADM's evaluator defines them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config, EvaluateConfig
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.data.picture_folder import PictureFolder
from lightningdit_jax.errors import difference
from lightningdit_jax.evaluation.error_bars import fixed_labels, jackknife_blocks, without
from lightningdit_jax.evaluation.frechet import (
    Moments,
    MomentsStream,
    ReferenceMoments,
    distance_from,
    frechet_distance,
    moments_from_npz,
)
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.precision_recall import coverage
from lightningdit_jax.inference.quality.evaluated_file import (
    open_samples,
    samples_identity,
    samples_path,
)
from lightningdit_jax.inference.quality.features import Features, ImagesInMemory
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.metric import Judge, Judgment, Metric, Quality, check_blocks
from lightningdit_jax.npz_reader import read_npz
from lightningdit_jax.parallel.multihost import is_main_process
from lightningdit_jax.planning.mesh import inference_mesh


def evaluate_samples(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any]]:
    """The metrics of evaluate.samples, or those in WORKDIR, against evaluate.reference.

    The first evaluate.num_images samples count; labels are not needed. Precision and recall compare
    with the images inside the reference file. All processes read the files and share the work.
    Returns the numbers, and what they are of.
    Raises ValueError or FileNotFoundError for files or a network that are not what they should be.
    """
    options = config.evaluate
    check_inception_options(options)
    samples = open_samples(samples_path(config, workdir))
    identity = samples_identity(samples)
    count = min(len(samples), options.num_images)
    check_blocks(config, count)
    yardstick = _Yardstick(options, inference_mesh(config.mesh))
    found = yardstick.network.features(samples, count, "samples seen")
    judgment = yardstick.judgment(found, _labels(samples, count))
    of_samples = {**identity, "count": int(judgment.numbers["num_samples"])}
    return judgment, {"samples": of_samples, **yardstick.of}


def _judge(config: Config, mesh: Mesh, class_names: Sequence[str]) -> tuple[Judge, dict[str, Any]]:
    check_inception_options(config.evaluate)
    yardstick = _Yardstick(config.evaluate, mesh)

    def judge(batches: Iterator[np.ndarray], labels: np.ndarray) -> Judgment:
        network = yardstick.network
        parts = [network.features(ImagesInMemory(images), len(images)) for images in batches]
        found = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        return yardstick.judgment(found, labels)

    return judge, yardstick.of


def _labels(samples: NpzImages | PictureFolder, count: int) -> np.ndarray | None:
    """Of the first samples, where their file has any."""
    stored = read_npz(samples.path, ["arr_1"]) if isinstance(samples, NpzImages) else {}
    labels = stored.get("arr_1")
    return None if labels is None or labels.shape != samples.shape[:1] else labels[:count]


class _Yardstick:
    """What samples are compared with: opened, and looked at by the network, once."""

    def __init__(self, options: EvaluateConfig, mesh: Mesh):
        images = NpzImages(options.reference)
        self.network = InceptionNetwork(options.inception, options.batch_size, mesh)
        reference = open_reference(options.reference, self.network)
        self._fid, self._sfid = map(distance_from, (reference.pool, reference.spatial))
        real = self.network.features(images, len(images), "reference images seen")
        self._real, self._num_blocks = real["pool"], options.jackknife_blocks
        self.of = {
            "reference": {"path": options.reference, "count": len(images)},
            "inception": {"path": options.inception, **self.network.identity},
        }

    def judgment(self, found: Features, labels: np.ndarray | None) -> Judgment:
        """All numbers of samples by their features; labels: where they are known."""
        pool, spatial, logits = (found[name] for name in ("pool", "spatial", "logits"))
        count, fixed = len(pool), None if labels is None else fixed_labels(labels)
        blocks = jackknife_blocks(count, self._num_blocks, fixed)
        covered = coverage(self._real, pool, blocks)
        numbers = {
            "fid": self._fid(Moments.of(pool).gaussian),
            "sfid": self._sfid(Moments.of(spatial).gaussian),
            "inception_score": inception_score(logits),
            **dataclasses.asdict(covered.whole()),
            "num_samples": count,
        }
        if not self._num_blocks:
            return Judgment(numbers)
        bars = frechet_bars("fid", self._fid, [pool], blocks, fixed)
        bars |= frechet_bars("sfid", self._sfid, [spatial], blocks, fixed)
        left_out = [
            {
                "inception_score": inception_score(logits[without(block, count)]),
                **dataclasses.asdict(covered.without(number, block)),
            }
            for number, block in enumerate(blocks)
        ]
        return Judgment.of(numbers, bars, left_out)


def _stream(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
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


def check_inception_options(options: EvaluateConfig) -> None:
    """Raises ValueError if the network or the reference that FID needs is not named."""
    for key in ("inception", "reference"):
        if not getattr(options, key):
            raise ValueError(
                f"config.evaluate.{key} is empty; FID needs a converted Inception network "
                "(convert_torch_weights.py --kind=inception) and a reference: "
                "VIRTUAL_imagenet256_labeled.npz of the ADM evaluator, or a file that "
                "scripts/reference_statistics.py makes of your images"
            )


def open_reference(path: str, network: InceptionNetwork) -> ReferenceMoments:
    """Moments of a reference file, once it is sure that this network's features compare with them.

    ADM's files do not say what made them. They are of the graph of 2015, which the released
    Inception weights are a port of, so they are accepted with a word of it.
    Raises ValueError for a file that another network made.
    """
    reference = moments_from_npz(path)
    if reference.extractor is None:
        if is_main_process():
            print(f"{path} does not name its network; taken for the 2015 graph of ADM's evaluator")
    elif reference.extractor != network.identity:
        wording = "{} in the file and {} here"
        differing = difference(reference.extractor, network.identity, wording)
        raise ValueError(
            f"{path} was made with another network: {differing}. Give config.evaluate.inception "
            "the checkpoint it was made with, or make it again with scripts/reference_statistics.py"
        )
    return reference


METRICS = {
    "fid": Metric(
        evaluate_samples,
        _stream,
        ("fid", "inception_score"),
        _judge,
        reads=("inception", "reference", "batch_size"),
    )
}
