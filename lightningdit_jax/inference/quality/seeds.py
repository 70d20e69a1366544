"""--mode=evaluate with evaluate.seeds: a generator's samples of several seeds, loaded once."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lightningdit_jax.config import Config
from lightningdit_jax.inference.quality.metric import Judgment, check_blocks
from lightningdit_jax.inference.quality.metrics import make_judge, metric_of
from lightningdit_jax.inference.sampling.job import describe_samples
from lightningdit_jax.inference.sampling.opening import find_sampler
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels
from lightningdit_jax.inference.sampling.sampler import Sampler
from lightningdit_jax.parallel.multihost import print_once


def evaluate_seeds(config: Config, workdir: str) -> tuple[dict[int, Judgment], dict[str, Any]]:
    """The judgment of sample.num_samples images of each seed, and what they are of.

    They are the images that --mode=sample draws with that seed; none is written. All programs are
    compiled, and all weights loaded, once. Raises what --mode=sample and the metric raise, and
    ValueError for fewer samples than the jackknife needs, before anything is drawn.
    """
    options = config.sample
    check_blocks(config, options.num_samples)
    found = find_sampler(config, workdir)
    sampling = found.structure.fitted(Sampling.of(options))
    found.check_labels(options.labels)
    metric_of(config).check(config, found.class_names)
    sampler, weights = found.load(options.num_samples)
    judge, compared_with = make_judge(config, sampler.mesh, sampler.class_names)
    judgments, seeds = {}, list(dict.fromkeys(config.evaluate.seeds))
    for number, seed in enumerate(seeds, 1):
        judgments[seed] = judge(*draw(sampler, sampling, options.labels, options.num_samples, seed))
        said = ", ".join(f"{k} {v:.4f}" for k, v in judgments[seed].numbers.items())
        print_once(f"{number}/{len(seeds)}  seed {seed}: {said}")
    made_with = {"seeds": seeds, **describe_samples(config, sampler, weights)}
    of_samples = {"made_with": made_with, "count": options.num_samples}
    return judgments, {"samples": of_samples, **compared_with}


def draw(
    sampler: Sampler, sampling: Sampling, mode: str, count: int, seed: int
) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Samples 0..count-1 of a seed, uint8 [b, H, W, 3] at a time, and their labels [count].

    mode: of the labels. Raises ValueError as choose_labels; what Sampler.batches raises comes with
    the images.
    """
    num_classes = sampler.structure.config.num_classes
    labels = choose_labels(mode, count, num_classes, seed, sampler.class_names)
    batches = sampler.batches(np.arange(count), labels, sampling, seed=seed)
    return (images for _, images in batches), labels
