"""FID and its kin as ADM's evaluator defines them, and distances in the features of other networks.

config.evaluate.inception asks for the first, config.evaluate.networks for the others.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config, EvaluateConfig
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.data.picture_folder import PictureFolder
from lightningdit_jax.evaluation.error_bars import fixed_labels, jackknife_blocks
from lightningdit_jax.evaluation.frechet import Moments, distance_from
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.reference_moments import (
    moments_from_npz,
    network_moments_from_npz,
)
from lightningdit_jax.inference.quality.adm_numbers import AdmNumbers
from lightningdit_jax.inference.quality.distances import Distances, number_names
from lightningdit_jax.inference.quality.evaluated_file import (
    open_samples,
    samples_identity,
    samples_path,
)
from lightningdit_jax.inference.quality.features import (
    Features,
    ImagesInMemory,
    Networks,
    features_of,
)
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.metric import Judge, Judgment, Metric, Quality, check_blocks
from lightningdit_jax.inference.quality.networks import (
    NETWORKS,
    POOL,
    names_of,
    network_of,
    open_networks,
)
from lightningdit_jax.inference.quality.reference import open_reference
from lightningdit_jax.npz_reader import read_npz
from lightningdit_jax.planning.mesh import inference_mesh


def evaluate_samples(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any]]:
    """The metrics of evaluate.samples, or those in WORKDIR, against evaluate.reference.

    The first evaluate.num_images samples count; labels are not needed. All but Fréchet distances
    compare with the images inside the reference file. All processes read the files and share the
    work. Returns the numbers, and what they are of.
    Raises ValueError or FileNotFoundError for files or a network that are not what they should be.
    """
    options = config.evaluate
    check_options(options)
    samples = open_samples(samples_path(config, workdir))
    identity = samples_identity(samples)
    count = min(len(samples), options.num_images)
    check_blocks(config, count)
    yardstick = _Yardstick(options, inference_mesh(config.mesh))
    found = features_of(yardstick.all, samples, count, "samples seen")
    judgment = yardstick.judgment(found, _labels(samples, count))
    of_samples = {**identity, "count": int(judgment.numbers["num_samples"])}
    return judgment, {"samples": of_samples, **yardstick.of}


def _judge(config: Config, mesh: Mesh, class_names: Sequence[str]) -> tuple[Judge, dict[str, Any]]:
    check_options(config.evaluate)
    yardstick = _Yardstick(config.evaluate, mesh)

    def judge(batches: Iterator[np.ndarray], labels: np.ndarray) -> Judgment:
        return yardstick.judgment(_features_of_batches(yardstick.all, batches), labels)

    return judge, yardstick.of


def _labels(samples: NpzImages | PictureFolder, count: int) -> np.ndarray | None:
    """Of the first samples, where their file has any."""
    stored = read_npz(samples.path, ["arr_1"]) if isinstance(samples, NpzImages) else {}
    labels = stored.get("arr_1")
    return None if labels is None or labels.shape != samples.shape[:1] else labels[:count]


def _features_of_batches(
    networks: Networks, batches: Iterator[np.ndarray], unread: str = ""
) -> dict[str, Features]:
    """What each network finds. unread: a feature that nobody asks for and that is not kept."""
    parts = []
    for images in batches:
        found = features_of(networks, ImagesInMemory(images), len(images))
        parts.append(
            {
                network: {name: rows for name, rows in features.items() if name != unread}
                for network, features in found.items()
            }
        )
    return {
        network: {name: np.concatenate([p[network][name] for p in parts]) for name in names}
        for network, names in parts[0].items()
    }


class _Yardstick:
    """What samples are compared with: opened, and looked at by the networks, once.

    all: the networks by name, InceptionNetwork among them where evaluate.inception names it.
    """

    def __init__(self, options: EvaluateConfig, mesh: Mesh):
        images = NpzImages(options.reference)
        inception, networks = _open_all(options, mesh)
        self.all = {**inception, **networks}
        reference = distances = None
        if inception:
            reference = open_reference(options.reference, inception["inception"])
        if networks:
            distances = Distances(networks, options.reference, len(images))
        self._real = _real_features(self.all, images)
        self._adm = reference and AdmNumbers(reference, self._real["inception"])
        self._distances, self._num_blocks = distances, options.jackknife_blocks
        paths = dict(zip((*networks, *inception), (*options.networks, options.inception)))
        self.of = {
            "reference": {"path": options.reference, "count": len(images)},
            **{n: {"path": paths[n], **network.identity} for n, network in self.all.items()},
        }

    def judgment(self, found: dict[str, Features], labels: np.ndarray | None) -> Judgment:
        """All numbers of samples by their features; labels: where they are known."""
        pools = {name: features[POOL] for name, features in found.items()}
        count = len(next(iter(pools.values())))
        fixed = None if labels is None else fixed_labels(labels)
        blocks = jackknife_blocks(count, self._num_blocks, fixed) if self._num_blocks else []
        parts = [self._adm.judgment(found["inception"], blocks, fixed)] if self._adm else []
        if self._distances:
            parts.append(self._distances.judgment(self._real, pools, blocks, fixed))
        numbers = {name: value for part in parts for name, value in part.numbers.items()}
        bars = {name: bar for part in parts for name, bar in part.bars.items()}
        return Judgment({**numbers, "num_samples": count}, bars)


def _open_all(options: EvaluateConfig, mesh: Mesh) -> tuple[Networks, Networks]:
    """The network of evaluate.inception, if there is one, and those of evaluate.networks."""
    if not options.inception:
        return {}, open_networks(options.networks, options.batch_size, mesh)
    inception = InceptionNetwork(options.inception, options.batch_size, mesh)
    there = (options.inception, inception)
    networks = open_networks(options.networks, options.batch_size, mesh, there)
    return {"inception": inception}, networks


def _real_features(networks: Networks, images: NpzImages) -> dict[str, np.ndarray]:
    """Pool features of all images, by network."""
    found = features_of(networks, images, len(images), "reference images seen")
    return {name: features[POOL] for name, features in found.items()}


def _stream(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
    options = config.evaluate
    check_options(options)
    inception, networks = _open_all(options, mesh)
    fid = None
    if inception:
        fid = distance_from(open_reference(options.reference, inception["inception"]).pool)
    if networks:
        images = NpzImages(options.reference)
        distances = Distances(networks, options.reference, len(images))
        real = _real_features(networks, images)

    def quality(batches: Iterator[np.ndarray], labels: np.ndarray) -> dict[str, float]:
        # Spatial features are for sFID alone, and as many as those of the pool.
        found = _features_of_batches({**inception, **networks}, batches, unread="spatial")
        numbers = {}
        if fid is not None:
            pool, logits = (found["inception"][name] for name in (POOL, "logits"))
            numbers = {
                "fid": fid(Moments.of(pool).gaussian),
                "inception_score": inception_score(logits),
            }
        if networks:
            pools = {name: features[POOL] for name, features in found.items()}
            numbers |= distances.judgment(real, pools, [], None).numbers
        return numbers

    return quality


def _check(config: Config, class_names: Sequence[str]) -> None:
    options = config.evaluate
    check_options(options)
    names = names_of(options.networks, options.inception)
    if options.inception:
        InceptionNetwork.check(options.inception)
    if options.inception or "inception" in names:
        moments_from_npz(options.reference)
    for name in names:
        if name != "inception" and not NETWORKS[name].is_of_cmmd:
            network_moments_from_npz(options.reference, name)
    if names:
        NpzImages(options.reference)


def _stream_names(config: Config) -> tuple[str, ...]:
    options = config.evaluate
    networks = number_names([network_of(path) for path in options.networks])
    return (*(("fid", "inception_score") if options.inception else ()), *networks)


def check_options(options: EvaluateConfig) -> None:
    """Raises ValueError if the networks or the reference that distances need are not named."""
    for keys in (("inception", "networks"), ("reference",)):
        if not any(getattr(options, key) for key in keys):
            raise ValueError(
                f"config.evaluate.{keys[0]} is empty; FID needs a converted Inception network "
                "(convert_torch_weights.py --kind=inception), or other distances those of "
                "config.evaluate.networks, and a reference: VIRTUAL_imagenet256_labeled.npz of the "
                "ADM evaluator, or a file that scripts/reference_statistics.py makes of your images"
            )


METRICS = {
    "fid": Metric(
        evaluate_samples,
        _stream,
        _stream_names,
        _judge,
        reads=("inception", "networks", "reference", "batch_size"),
        check=_check,
    )
}
