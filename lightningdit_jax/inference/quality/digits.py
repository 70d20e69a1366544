"""How good generated digits are: recognized, like real ones, and neither copies nor all alike."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.error_bars import fixed_labels, jackknife_blocks, without
from lightningdit_jax.evaluation.frechet import Moments
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.neighbors import nearest_distances, within_class_nearest
from lightningdit_jax.evaluation.recognition import DigitsJudge
from lightningdit_jax.inference.quality.evaluated_file import samples_identity, samples_path
from lightningdit_jax.inference.quality.metric import Judge, Judgment, Metric, Quality, check_blocks
from lightningdit_jax.npz_reader import read_npz


def evaluate_digits(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any]]:
    """Whether generated digits are what they should be, and neither copies nor all alike.

    Returns the numbers, and what they are of.

    recognised_share: share that a classifier fitted on the real training digits takes for their
    label; classifier_accuracy: the same classifier on real held-out digits. digits_fid: Fréchet
    distance of that classifier's features from those of the training digits. Distances are L2 in
    8x8 pixels of 0..16: of samples to the nearest training digit (memorizing makes it small), and
    among samples of a class (mode collapse makes it small). Beside each (`_real`) the same for
    held-out digits. Raises FileNotFoundError without samples, ValueError if they have no labels or
    are known to be of other classes.
    """
    path = samples_path(config, workdir)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder of pictures, which have no labels; digits are judged by those of "
            "an .npz file, so draw them with --config.sample.output=npz or both"
        )
    samples = NpzImages(path)
    identity = samples_identity(samples)
    check_digits((identity["made_with"] or {}).get("class_names", ()))
    images, labels = _labeled(samples, config.evaluate.num_images)
    check_blocks(config, len(images))
    judgment = _judgment(digits_to_8x8(images), labels, config.evaluate.jackknife_blocks)
    return judgment, {"samples": {**identity, "count": len(images)}, **_reference()}


def _judge(config: Config, mesh: Mesh, class_names: Sequence[str]) -> tuple[Judge, dict[str, Any]]:
    check_digits(class_names)
    num_blocks = config.evaluate.jackknife_blocks

    def judge(batches: Iterator[np.ndarray], labels: np.ndarray) -> Judgment:
        return _judgment(digits_to_8x8(np.concatenate(list(batches))), labels, num_blocks)

    return judge, _reference()


def _reference() -> dict[str, Any]:
    counts = {split: len(real_digits(split)[0]) for split in ("train", "test")}
    return {"reference": {"source": "digits", **counts}}


def _judgment(drawn: np.ndarray, labels: np.ndarray, num_blocks: int) -> Judgment:
    """All numbers of samples [N, 64] of these labels [N]."""
    train_x, _ = real_digits("train")
    test_x, test_y = real_digits("test")
    judge = digits_judge()
    # As many samples per class as held-out digits: what a set's distances are depends on its size.
    chosen = np.concatenate(
        [np.flatnonzero(labels == c)[: np.sum(test_y == c)] for c in np.unique(labels)]
    )
    recognized, features = judge.recognized(drawn, labels), judge.features(drawn)
    to_train = nearest_distances(drawn, train_x)

    def of_all(kept: np.ndarray | slice) -> dict[str, float]:
        return {
            "recognised_share": float(recognized[kept].mean()),
            "distance_to_train": float(to_train[kept].mean()),
        }

    def of_chosen(kept: np.ndarray | slice) -> dict[str, float]:
        some = chosen[kept]
        return {
            "digits_fid": judge.distance(Moments.of(features[some]).gaussian),
            "distance_within_class": float(within_class_nearest(drawn[some], labels[some]).mean()),
        }

    ours = of_all(slice(None)) | of_chosen(slice(None))
    numbers = {
        "recognised_share": ours["recognised_share"],
        "classifier_accuracy": float(judge.recognized(test_x, test_y).mean()),
        "digits_fid": ours["digits_fid"],
        "digits_fid_real": judge.frechet_distance(test_x),
        "distance_to_train": ours["distance_to_train"],
        "distance_to_train_real": float(nearest_distances(test_x, train_x).mean()),
        "distance_within_class": ours["distance_within_class"],
        "distance_within_class_real": float(within_class_nearest(test_x, test_y).mean()),
        "num_samples": len(drawn),
    }
    if not num_blocks:
        return Judgment(numbers)
    fixed = fixed_labels(labels)
    blocks = jackknife_blocks(len(drawn), num_blocks, fixed)
    # Of all samples: what more of them tend to does not depend on their number.
    bars = frechet_bars("digits_fid", judge.distance, [features], blocks, fixed)
    del bars["digits_fid"]
    some = jackknife_blocks(len(chosen), num_blocks, None if fixed is None else fixed[chosen])
    return Judgment.of(
        numbers,
        bars,
        [of_all(without(block, len(drawn))) for block in blocks],
        [of_chosen(without(block, len(chosen))) for block in some],
    )


def _stream(config: Config, mesh: Mesh, class_names: Sequence[str]) -> Quality:
    check_digits(class_names)
    return _quality


def _quality(batches: Iterator[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    judge, digits = digits_judge(), digits_to_8x8(np.concatenate(list(batches)))
    return {
        "digits_fid": judge.frechet_distance(digits),
        "recognised_share": judge.recognised_share(digits, labels),
    }


def check_digits(class_names: Sequence[str]) -> None:
    """Raises ValueError for the names of other classes than the ten digits; () are not known."""
    if class_names and tuple(class_names) != Digits.class_names:
        raise ValueError(
            "config.evaluate.metric is 'digits', which judges handwritten digits, but the images "
            f"are of {class_line(class_names)}; set it to 'fid'"
        )


def _labeled(stored: NpzImages, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, 3] and their labels [N], at most so many."""
    path, count = stored.path, min(len(stored), most)
    labels = read_npz(path, ["arr_1"]).get("arr_1")
    if labels is None:
        raise ValueError(
            f"{path} lacks ['arr_1']; digits are judged by arr_0, images, and arr_1, their labels"
        )
    side = stored.shape[1]
    if count < 2 or side % 8 or stored.shape[2] != side:
        raise ValueError(
            f"{path} holds images of shape {stored.shape}; digits are judged by two at least, as "
            "wide as high, in pixels a multiple of 8"
        )
    if labels.shape != stored.shape[:1] or not np.isin(labels, np.arange(10)).all():
        raise ValueError(
            f"{path} holds labels of shape {labels.shape} for {len(stored)} images; expected one "
            "an image, each a digit from 0 to 9"
        )
    return np.concatenate(list(stored.batches(count, 0, count))), labels[:count]


@functools.cache
def digits_judge() -> DigitsJudge:
    """The judge, fitted on the real training digits."""
    return DigitsJudge.fit(*real_digits("train"))


@functools.cache
def real_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float32 [N, 64] in 0..16 and labels [N]."""
    digits = Digits(split)
    images = np.stack([np.asarray(digits.image(i)) for i in range(len(digits))])
    return digits_to_8x8(images), digits.labels


METRICS = {
    "digits": Metric(
        evaluate_digits,
        _stream,
        ("digits_fid", "recognised_share"),
        _judge,
        check=lambda config, class_names: check_digits(class_names),
    )
}
