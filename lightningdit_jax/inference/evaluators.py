"""--mode=evaluate: numbers and pictures for a tokenizer, and for generated digits."""

import json

import numpy as np
from etils import epath

from lightningdit_jax.config import Config
from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.evaluation.neighbours import nearest_distances, within_class_nearest
from lightningdit_jax.evaluation.recognition import fit_classifier
from lightningdit_jax.inference.sample_quality import evaluate_samples
from lightningdit_jax.inference.tokenizer_quality import evaluate_tokenizer
from lightningdit_jax.parallel.multihost import is_main_process

Numbers = dict[str, float]


def evaluate(config: Config, workdir: str) -> Numbers:
    """Evaluates what the config trains and writes WORKDIR/evaluation.json."""
    if config.kind == "vavae":
        numbers = evaluate_tokenizer(config, workdir)
    elif config.evaluate.metric == "digits":
        numbers = evaluate_digits(workdir, config.evaluate.num_images)
    else:
        numbers = evaluate_samples(config, workdir)
    if is_main_process():
        path = epath.Path(workdir) / "evaluation.json"
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(numbers, indent=1) + "\n")
        temporary.replace(path)
        for name, value in numbers.items():
            print(f"{name:34s} {value:.4f}")
    return numbers


def evaluate_digits(workdir: str, num_images: int) -> Numbers:
    """Whether generated digits are what they should be, and neither copies nor all alike.

    recognised_share: share that a classifier fitted on the real training digits takes for their
    label; classifier_accuracy: the same classifier on real held-out digits. Distances are L2 in
    8x8 pixels of 0..16: of samples to the nearest training digit (memorising makes it small), and
    among samples of a class (mode collapse makes it small), beside the same for held-out digits.
    """
    path = epath.Path(workdir) / "samples.npz"
    if not path.exists():
        raise FileNotFoundError(f"no samples at {path}; make them with --mode=sample")
    with path.open("rb") as file, np.load(file) as archive:
        images, labels = archive["arr_0"][:num_images], archive["arr_1"][:num_images]
    train_x, train_y = _real_digits("train")
    test_x, test_y = _real_digits("test")
    samples = digits_to_8x8(images)
    classifier = fit_classifier(train_x, train_y)
    # As many samples per class as held-out digits: distances to the nearest shrink with numbers.
    chosen = np.concatenate(
        [np.flatnonzero(labels == c)[: np.sum(test_y == c)] for c in np.unique(labels)]
    )
    return {
        "recognised_share": float(np.mean(classifier.predict(samples) == labels)),
        "classifier_accuracy": float(np.mean(classifier.predict(test_x) == test_y)),
        "distance_to_train": float(nearest_distances(samples, train_x).mean()),
        "distance_to_train_real": float(nearest_distances(test_x, train_x).mean()),
        "distance_within_class": float(
            within_class_nearest(samples[chosen], labels[chosen]).mean()
        ),
        "distance_within_class_real": float(within_class_nearest(test_x, test_y).mean()),
        "num_samples": len(samples),
    }


def _real_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    digits = Digits(split)
    images = np.stack([np.asarray(digits.image(i)) for i in range(len(digits))])
    return digits_to_8x8(images), digits.labels
