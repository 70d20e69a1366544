"""Every way to sample gives the same bytes: what a generator was trained to do is said once."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.average_profiles import Profile, fit_profile
from lightningdit_jax.averages import power_name
from lightningdit_jax.checkpoint import find_checkpoint, read_meta, save_checkpoint
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.quality import in_training
from lightningdit_jax.inference.quality import sweep as sweep_module
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.opening import open_sampler
from lightningdit_jax.inference.sampling.sampler import make_program
from lightningdit_jax.latent_scaling import LatentScaling
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

COUNT, LABELS = 6, [3, 1, 4]
MULTIPLIER = 0.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meaning")
    save_tokenizer(folder / "tokenizer")
    tiny.write_latents(folder / "latents", size=4)
    return folder


def config_of(folder, flow, checkpoint):
    return tiny.config(
        "digits_dit",
        data__path=str(folder / "latents"),
        data__latent_multiplier=MULTIPLIER,
        model__input_size=4,
        model__hidden_size=16,
        flow__path=flow.path,
        flow__prediction=flow.prediction,
        flow__cosine_weight=0.0,
        sample__checkpoint=str(checkpoint),
        sample__tokenizer=str(folder / "tokenizer"),
        sample__num_samples=COUNT,
        sample__num_steps=4,
        sample__batch_size=8,
        sample__labels=",".join(map(str, LABELS)),
        sweep__num_samples=COUNT,
        train__evaluate_every_steps=1,
        evaluate__train_samples=COUNT,
    )


def keep_images(monkeypatch, module):
    """Images that a job would only measure."""
    kept = []

    def make_quality(config, mesh, class_names):
        def quality(batches, labels):
            kept.append(np.concatenate(list(batches)))
            return {"digits_fid": 1.0, "recognised_share": 1.0}

        return quality

    monkeypatch.setattr(module, "make_quality", make_quality)
    return kept


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(Flow(), id="linear"),
        pytest.param(Flow("gvp", "noise"), id="gvp", marks=pytest.mark.slow),
        pytest.param(Flow("vp", "score"), id="vp", marks=pytest.mark.slow),
    ],
)
def test_every_public_path_gives_the_same_bytes(folder, tmp_path, monkeypatch, flow):
    dit = random_generator()
    data = tiny.load_scaling(folder / "latents", MULTIPLIER)
    checkpoint = save_generator(tmp_path / "dit", dit, flow=flow, scaling=data)
    config = config_of(folder, flow, checkpoint)
    options = config.sample

    sample(config, str(tmp_path / "sampled"))
    want = np.load(tmp_path / "sampled" / "samples.npz")["arr_0"]
    assert want.std() > 1

    images = ldj.generate(
        ldj.load(str(checkpoint)),
        ldj.load(str(folder / "tokenizer")),
        np.resize(LABELS, COUNT),
        seed=config.seed,
        batch_size=8,
        num_steps=options.num_steps,
        cfg_scale=options.cfg_scale,
        cfg_channels=options.cfg_channels,
        cfg_interval_start=options.cfg_interval_start,
        timestep_shift=options.timestep_shift,
    )
    np.testing.assert_array_equal(images, want)
    assert ldj.latent_stats(str(checkpoint)) == data

    swept = keep_images(monkeypatch, sweep_module)
    sweep_module.sweep(config, str(tmp_path / "swept"))
    np.testing.assert_array_equal(swept[0], want)

    evaluated = keep_images(monkeypatch, in_training)
    params = nnx.to_pure_dict(nnx.state(dit, nnx.Param))
    evaluator = in_training.make_training_evaluator(config)
    evaluator(1, types.SimpleNamespace(params=params, averages={}))
    np.testing.assert_array_equal(evaluated[0], want)


@pytest.mark.slow
def test_averages_made_after_training_are_the_same_everywhere(folder, tmp_path, monkeypatch):
    """Swept, sampled, and loaded; one that was kept to the bit of its float16."""
    data, run = tiny.load_scaling(folder / "latents", MULTIPLIER), tmp_path / "run"
    sigmas, steps, kept = (0.05, 0.1), (8, 14, 20), {}
    said = {"config": {"train": {"ema_sigmas": sigmas}}}
    dit, rng = random_generator(), np.random.default_rng(0)
    checkpoint = run / "checkpoints" / "20"
    save_generator(checkpoint, dit, flow=Flow(), scaling=data, **said | {"step": 20})
    meta, params = read_meta(find_checkpoint(str(run))), nnx.state(dit, nnx.Param)
    for step in steps:
        items = {
            power_name(sigma): jax.tree.map(
                lambda x: np.float16(x + 0.1 * rng.normal(size=x.shape)), nnx.to_pure_dict(params)
            )
            for sigma in sigmas
        }
        kept |= {Profile(step, sigma=sigma): items[power_name(sigma)] for sigma in sigmas}
        save_checkpoint(str(run / "snapshots" / str(step)), items, {"meta": meta | {"step": step}})

    config = config_of(folder, Flow(), run)
    chosen = (0.1, 0.08)
    swept = keep_images(monkeypatch, sweep_module)
    rows = sweep_module.sweep(
        tiny.replaced(config, "sweep", ema_sigma=chosen, cfg_scale=(1.5, 2.0)), str(tmp_path)
    )
    assert [row["settings"]["ema_sigma"] for row in rows] == [0.1, 0.1, 0.08, 0.08]
    assert not np.array_equal(swept[1], swept[3])
    compiled = make_program.cache_info().misses
    sample(tiny.replaced(config, "sample", ema_sigma=0.08, cfg_scale=2.0), str(tmp_path / "one"))
    got = np.load(tmp_path / "one" / "samples.npz")["arr_0"]
    np.testing.assert_array_equal(got, swept[3])
    assert json.loads((tmp_path / "one" / "samples.json").read_text())["ema_sigma"] == 0.08
    for sigma in chosen:
        fit = fit_profile(tuple(kept), Profile(20, sigma=sigma))
        parts = [jax.tree.leaves(tree) for tree in kept.values()]
        leaves = [np.tensordot(fit.coefficients, np.stack(x), 1) for x in zip(*parts)]
        loaded = jax.tree.leaves(nnx.state(ldj.load(str(run), ema_sigma=sigma), nnx.Param))
        for got, wanted in zip(loaded, leaves, strict=True):
            np.testing.assert_allclose(got, wanted, atol=0 if sigma == 0.1 else 1e-6)
    assert make_program.cache_info().misses == compiled  # the sweep's program is of all weights

    with pytest.raises(ValueError, match=r"holds averages alone, to make others of; ema_sigma"):
        ldj.load(str(run / "snapshots" / "20"))
    with pytest.raises(ValueError, match=r"ema_sigma is 0\.1, ema_decay 0\.0 and use_ema False"):
        ldj.load(str(run), ema_sigma=0.1, use_ema=False)
    with pytest.raises(ValueError, match=r"an ema_sigma is 0\.1, config\.sample\.ema_decay 0\.5"):
        tiny.replaced(config, "sample", ema_sigma=0.1, ema_decay=0.5)
    within = tiny.replaced(config, "sample", ema_sigma=0.08).changed(train={"ema_sigmas": sigmas})
    with pytest.raises(ValueError, match=r"no average 'ema_sigma_0\.08'; there are: ema_sigma_0"):
        in_training.make_training_evaluator(within)


def test_statistics_replace_what_the_checkpoint_says(folder, tmp_path):
    flow, scaling = Flow(), LatentScaling([0.5] * 8, [2.0] * 8)
    dit, vae = random_generator(), ldj.load(str(folder / "tokenizer"))
    loaded = ldj.load(str(save_generator(tmp_path / "a", dit, flow=flow, scaling=scaling)))
    own = ldj.generate(loaded, vae, [1], num_steps=3)
    given = types.SimpleNamespace(mean=np.full(8, 0.5), std=np.full((1, 8, 1, 1), 2.0))
    for stats in (scaling, given):
        images = ldj.generate(dit, vae, [1], num_steps=3, latent_stats=stats)
        np.testing.assert_array_equal(images, own)
    raw = ldj.generate(loaded, vae, [1], num_steps=3, latent_stats="none")
    assert not np.array_equal(raw, own)


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        (None, "does not say how its latents were normalized; give latent_stats"),
        ("raw", "latent_stats is 'raw'"),
        (types.SimpleNamespace(mean=np.zeros(32), std=np.ones(32)), "of 32 channels, .* have 8"),
        (types.SimpleNamespace(mean=np.zeros(8), std=np.ones(7)), "mean of 8 and a std of 7"),
        (types.SimpleNamespace(mean=np.zeros(8), std=np.full(8, np.nan)), "std nan in channel 0"),
        (types.SimpleNamespace(mean=np.zeros(8), std=np.zeros(8)), r"std 0\.0 in channel 0"),
    ],
)
def test_latents_that_mean_nothing_are_refused(folder, stats, reason):
    vae = ldj.load(str(folder / "tokenizer"))
    with pytest.raises(ValueError, match=reason):
        ldj.generate(random_generator(), vae, [1], num_steps=3, latent_stats=stats)


def test_models_of_another_kind_are_named(folder):
    dit, vae = random_generator(), ldj.load(str(folder / "tokenizer"))
    for models, weak, reason in [
        ((vae, vae), None, "dit is a VAVAE; expected a LightningDiT"),
        ((dit, dit), None, "vae is a LightningDiT; expected a Tokenizer"),
        (("runs/dit", vae), None, r"dit is a str; expected a LightningDiT, which .*\.load makes"),
        ((dit, vae), vae, "weak is a VAVAE; expected a LightningDiT"),
    ]:
        with pytest.raises(ValueError, match=reason):
            ldj.generate(*models, [1], num_steps=3, latent_stats="none", weak=weak)
    other = random_generator(tiny.dit_config(in_channels=4))
    with pytest.raises(ValueError, match="latents of 4 channels, the tokenizer vae decodes 8"):
        ldj.generate(other, vae, [1], num_steps=3, latent_stats="none")


@pytest.mark.parametrize(
    ("flow", "scaling", "reason"),
    [
        (Flow("gvp"), LatentScaling(), "has path gvp, the generator linear"),
        (Flow(), LatentScaling(multiplier=2), "trained on latents scaled otherwise"),
    ],
)
def test_a_weak_generator_of_other_latents_is_refused(folder, tmp_path, flow, scaling, reason):
    ours = save_generator(tmp_path / "a", random_generator(), flow=Flow(), scaling=LatentScaling())
    weak = save_generator(tmp_path / "b", random_generator(), flow=flow, scaling=scaling)
    config = config_of(folder, Flow(), ours)
    config = tiny.replaced(config, "sample", weak_checkpoint=str(weak))
    with pytest.raises(ValueError, match=reason):
        sample(config, str(tmp_path / "out"))
    vae = ldj.load(str(folder / "tokenizer"))
    with pytest.raises(ValueError, match=reason):
        ldj.generate(ldj.load(str(ours)), vae, [1], num_steps=3, weak=ldj.load(str(weak)))


def test_the_digits_metric_is_of_digits_alone(folder, tmp_path):
    """A config that was derived from the demo's used to score photographs by it."""
    names = ["cat", "dog", *"cdefghij"]
    dit, scaling = random_generator(), LatentScaling()
    checkpoint = save_generator(
        tmp_path / "a", dit, flow=Flow(), scaling=scaling, class_names=names
    )
    config = config_of(folder, Flow(), checkpoint)
    judged = r"judges handwritten digits, but the images are of 10 classes: cat, dog, .*'fid'"
    with pytest.raises(ValueError, match=judged):
        sweep_module.sweep(config, str(tmp_path / "swept"))
    sample(config, str(tmp_path / "sampled"))
    with pytest.raises(ValueError, match=judged):
        evaluate(config, str(tmp_path / "sampled"))
    assert not (tmp_path / "sampled" / "evaluation.json").exists()
    write_json(folder / "latents" / "extraction.json", {"class_names": names})
    with pytest.raises(ValueError, match=judged):
        in_training.make_training_evaluator(config)
    (folder / "latents" / "extraction.json").unlink()


def test_a_tokenizer_of_other_weights_is_said(folder, tmp_path, capsys):
    fields = {"flow": Flow(), "scaling": LatentScaling()}
    other = save_generator(tmp_path / "a", random_generator(), tokenizer="feed", **fields)
    _, described = open_sampler(config_of(folder, Flow(), other), str(tmp_path), 8)
    assert "is not the tokenizer whose latents" in capsys.readouterr().out
    same = described["weights"]["vae"]["fingerprint"]
    own = save_generator(tmp_path / "b", random_generator(), tokenizer=same, **fields)
    open_sampler(config_of(folder, Flow(), own), str(tmp_path), 8)
    assert "is not the tokenizer" not in capsys.readouterr().out


def test_a_description_is_of_the_samples_beside_it(folder, tmp_path):
    """samples.json used to vouch for whatever samples.npz was put beside it."""
    dit = random_generator()
    checkpoint = save_generator(tmp_path / "a", dit, flow=Flow(), scaling=LatentScaling())
    config = config_of(folder, Flow(), checkpoint)
    sample(config, str(tmp_path / "x"))
    other = dataclasses.replace(config, seed=1)
    sample(other, str(tmp_path / "y"))
    evaluate(config, str(tmp_path / "x"))
    shutil.copy(tmp_path / "y" / "samples.npz", tmp_path / "x" / "samples.npz")
    with pytest.raises(ValueError, match=r"samples\.json is of other samples than samples\.npz"):
        evaluate(config, str(tmp_path / "x"))
    sample(config, str(tmp_path / "x"))  # drawn again, not "there already"
    evaluate(config, str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"arr_0": np.zeros((4, 16, 16, 3), np.float32), "arr_1": np.arange(4)}, "float32"),
        ({"arr_0": np.zeros((4, 12, 12, 3), np.uint8), "arr_1": np.arange(4)}, "multiple of 8"),
        ({"arr_0": np.zeros((1, 16, 16, 3), np.uint8), "arr_1": np.arange(1)}, "two at least"),
        ({"arr_0": np.zeros((4, 16, 16, 3), np.uint8), "arr_1": np.arange(3)}, r"\(3,\) for 4"),
        ({"arr_0": np.zeros((4, 16, 16, 3), np.uint8), "arr_1": np.full(4, 10)}, "0 to 9"),
        ({"arr_0": np.zeros((4, 16, 16, 3), np.uint8)}, "lacks"),
    ],
)
def test_samples_that_are_no_digits_are_not_scored(folder, tmp_path, arrays, reason):
    np.savez(tmp_path / "f.npz", **arrays)
    config = config_of(folder, Flow(), tmp_path)
    config = tiny.replaced(config, "evaluate", samples=str(tmp_path / "f.npz"))
    with pytest.raises(ValueError, match=rf"f\.npz .*{reason}"):
        evaluate(config, str(tmp_path))
