"""Evaluation within a generator's training: samples of the averaged weights, and their numbers."""

from collections.abc import Callable

from etils import epath

from lightningdit_jax.config import HELD_OUT, Config
from lightningdit_jax.data.latents_record import class_names, read_record
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.inference.quality.metrics import make_quality, metric_of
from lightningdit_jax.inference.sampling.in_training import TrainingSampler, Weights
from lightningdit_jax.latent_scaling import LatentScaling

Evaluator = Callable[[int, Weights], dict[str, float]]


def make_training_evaluator(
    config: Config, scaling: LatentScaling | None = None
) -> Evaluator | None:
    """evaluator(step, state) -> numbers of evaluate.train_samples images, or None where it is off.

    It is off for train.evaluate_every_steps = 0 and for a tokenizer. Images are drawn by
    TrainingSampler. The numbers are those of evaluate.metric as images are drawn; a Fréchet
    distance of few samples is biased upwards, so compare it with its like only. scaling: of the
    run's latents; None is that of config.data. All processes have to call it, with the state on
    their mesh.
    Raises ValueError or FileNotFoundError for what TrainingSampler refuses, a network or a
    reference that are missing or do not fit, and for a train.best_metric that is no number of the
    metric's, all before training begins.
    """
    if config.kind != "lightningdit" or config.train.evaluate_every_steps == 0:
        return None
    best, names = config.train.best_metric, metric_of(config).names_of_stream(config)
    if best and not best.startswith(HELD_OUT) and best not in names:
        raise ValueError(unknown_name("number of config.train.best_metric", best, names))
    metric_of(config).check(config, class_names(read_record(epath.Path(config.data.path))))
    count, key = config.evaluate.train_samples, "evaluate_every_steps"
    sampler = TrainingSampler(config, scaling, count, what="evaluation", key=key)
    quality = make_quality(config, sampler.mesh, sampler.class_names)

    def evaluator(step: int, state: Weights) -> dict[str, float]:
        return quality(sampler.draw(state), sampler.labels)

    return evaluator
