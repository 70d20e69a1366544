"""A metric is a row and nothing else: one of another network judges files, sweeps and training."""

import json
import types

import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.config_jobs import EVALUATE_SAMPLES, SWEEP, check_given
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.frechet import Moments, MomentsStream, frechet_distance
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.quality.evaluated_file import samples_identity, samples_path
from lightningdit_jax.inference.quality.features import FeatureNetwork, ImagesInMemory
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metric import Metric
from lightningdit_jax.inference.quality.metrics import METRICS, metric_choice
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer

COUNT = 13  # of samples: no multiple of the batch


def mean_tokens(network, images):
    return {"tokens": network(to_model_range(images)).mean((1, 2))}


def open_network(config, mesh):
    options = config.evaluate
    return FeatureNetwork(
        "the ViT",
        options.inception,
        "vit",
        mean_tokens,
        identity={"network": "tiny"},
        batch_size=options.batch_size,
        mesh=mesh,
    )


def real_moments(config, network):
    images = NpzImages(config.evaluate.reference)
    return network.moments(images, len(images), ["tokens"])["tokens"].gaussian


def judge_file(config, workdir):
    network = open_network(config, make_mesh())
    samples = NpzImages(samples_path(config, workdir))
    found = Moments.of(network.features(samples, len(samples))["tokens"]).gaussian
    distance = frechet_distance(*real_moments(config, network), *found)
    return {"vit_distance": distance}, {
        "samples": samples_identity(samples),
        "vit": network.identity,
    }


def judge_stream(config, mesh, class_names):
    network = open_network(config, mesh)
    real = real_moments(config, network)

    def quality(batches, labels):
        stream = MomentsStream(tiny.VIT.hidden_size)
        for images in batches:
            stream.add(network.features(ImagesInMemory(images), len(images))["tokens"])
        return {"vit_distance": frechet_distance(*real, *stream.moments().gaussian)}

    return quality


TOY = Metric(
    judge_file, judge_stream, ("vit_distance",), reads=("inception", "reference", "batch_size")
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "vit_distance", TOY)
    save_tokenizer(tmp_path / "tokenizer")
    latents = tiny.write_latents(tmp_path / "latents", size=4)
    scaling = tiny.load_scaling(latents)
    dit = save_generator(tmp_path / "dit", random_generator(), flow=Flow(), scaling=scaling)
    network = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    real = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=real)
    return tiny.config(
        "digits_dit",
        data__path=str(latents),
        model__input_size=4,
        model__hidden_size=16,
        sample__checkpoint=str(dit),
        sample__tokenizer=str(tmp_path / "tokenizer"),
        sample__num_samples=COUNT,
        sample__num_steps=3,
        sample__batch_size=8,
        sweep__num_samples=COUNT,
        evaluate__metric="vit_distance",
        evaluate__inception=network,
        evaluate__reference=str(tmp_path / "real.npz"),
        evaluate__batch_size=8,
        evaluate__train_samples=COUNT,
        train__evaluate_every_steps=1,
        train__best_metric="vit_distance",
    )


def distance_of(config, images):
    """The same of all images at once, by NumPy's moments."""
    network = ldj.load(config.evaluate.inception)
    both = (np.load(config.evaluate.reference)["arr_0"], images)
    tokens = [np.asarray(mean_tokens(network, x)["tokens"], np.float64) for x in both]
    return frechet_distance(*(m for x in tokens for m in (x.mean(0), np.cov(x.T))))


def test_it_judges_files_sweeps_and_training(config, tmp_path):
    sample(config, str(tmp_path / "out"))
    want = distance_of(config, np.load(tmp_path / "out" / "samples.npz")["arr_0"])
    assert want > 1e-3
    numbers = evaluate(config, str(tmp_path / "out"))
    assert numbers == {"vit_distance": pytest.approx(want, rel=1e-4)}
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["of"]["vit"].keys() == {"network", "weights"}

    [row] = sweep(config, str(tmp_path / "swept"))
    assert row["numbers"] == {"vit_distance": pytest.approx(want, rel=1e-4)}

    params = nnx.to_pure_dict(nnx.state(random_generator(), nnx.Param))
    evaluator = make_training_evaluator(config)
    found = evaluator(1, types.SimpleNamespace(params=params, averages={}))
    assert found == {"vit_distance": pytest.approx(want, rel=1e-4)}


def test_its_keys_are_refused_with_other_metrics_and_its_numbers_are_known(config):
    choices = [metric_choice()]
    for job in (EVALUATE_SAMPLES, SWEEP):
        check_given(["evaluate.reference"], [job], config.value, choices)
        digits = config.changed(evaluate={"metric": "digits"})
        with pytest.raises(ValueError, match=r"to what reads it: 'fid', 'vit_distance'"):
            check_given(["evaluate.reference"], [job], digits.value, choices)
    wrong = config.changed(train={"best_metric": "vit_distanse"})
    with pytest.raises(ValueError, match="best_metric 'vit_distanse'; did you mean 'vit_distance'"):
        make_training_evaluator(wrong)
    for broken in ({"metric": "fld"}, {"inception": "nowhere"}):
        with pytest.raises((ValueError, FileNotFoundError), match=r"fld|nowhere"):
            make_training_evaluator(config.changed(evaluate=broken))
