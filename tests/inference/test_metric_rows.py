"""A metric is a row and nothing else: one of another network judges files, sweeps and training."""

import dataclasses
import json
import os
import types

import numpy as np
import pytest
import scipy.stats
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
from lightningdit_jax.inference.quality.metric import Judgment, Metric
from lightningdit_jax.inference.quality.metrics import METRICS, metric_choice
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.sampler import make_program
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
    return Judgment({"vit_distance": distance}), {
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


@pytest.mark.slow
def test_several_seeds_are_judged_as_the_samples_of_each_would_be(config, tmp_path):
    """Intervals are those of scipy; a row of a sweep grows by seed, and none is made again."""
    want = {}
    for seed in (3, 4, 5):
        sample(dataclasses.replace(config, seed=seed), str(tmp_path / f"{seed}"))
        images = np.load(tmp_path / f"{seed}" / "samples.npz")["arr_0"]
        want[str(seed)] = pytest.approx(distance_of(config, images), rel=1e-4)
    seeded = config.changed(evaluate={"seeds": (3, 4)}, sweep={"seeds": (3, 4)})
    compiled = make_program.cache_info().misses
    numbers = evaluate(seeded, str(tmp_path / "judged"))
    assert make_program.cache_info().misses - compiled <= 1
    written = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert os.listdir(tmp_path / "judged") == ["evaluation.json"]
    found = {seed: judged["vit_distance"] for seed, judged in written["seeds"].items()}
    assert found == {seed: want[seed] for seed in ("3", "4")} and found["3"] != found["4"]
    bars, values = written["error_bars"], list(found.values())
    bar = bars["numbers"]["vit_distance"]
    assert (bars["over"], bar["degrees"]) == ("sampling seeds", 1)
    assert numbers["vit_distance"] == pytest.approx(np.mean(values))
    assert bar["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
    interval = scipy.stats.t.interval(0.95, 1, np.mean(values), scipy.stats.sem(values))
    assert bar["interval"] == pytest.approx(interval)
    made_with = written["of"]["samples"]["made_with"]
    assert made_with["seeds"] == [3, 4] and made_with["num_samples"] == COUNT

    [row] = sweep(seeded, str(tmp_path / "swept"))
    assert {seed: n["vit_distance"] for seed, n in row["seeds"].items()} == found
    assert row["error_bars"] == bars and "seed" not in row["settings"]
    [more] = sweep(seeded.changed(sweep={"seeds": (4, 5)}), str(tmp_path / "swept"))
    assert more["seeds"] == {**row["seeds"], "5": {"vit_distance": want["5"]}}
    assert json.loads((tmp_path / "swept" / "sweep.json").read_text()) == [more]
    # Without seeds a row is what it used to be, beside the others.
    [plain] = sweep(dataclasses.replace(config, seed=3), str(tmp_path / "swept"))
    assert plain["numbers"] == row["seeds"]["3"] and plain["settings"]["seed"] == 3
    assert not plain.keys() & {"seeds", "error_bars"}


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
