"""Evaluation within training: the numbers of the images that the weights make."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lightningdit_jax.assembly.loading import load
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.data.digits import digits_to_8x8
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.evaluation.frechet import Moments, frechet_distance
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.reference_moments import ReferenceMoments
from lightningdit_jax.inference.quality.digits import digits_judge
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.training_pictures import make_training_picture
from lightningdit_jax.inference.reconstruct import make_encoder
from lightningdit_jax.inference.sampling.generate import generate
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.training.job import open_source
from lightningdit_jax.training.run import train
from tests import tiny
from tests.inference import tiny_inception
from tests.inference.tiny_tokenizer import save_tokenizer

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

COUNT = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    save_tokenizer(folder / "tokenizer")
    tiny.write_latents(folder / "latents", size=8)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return tiny.config(
        "digits_dit",
        data__path=str(folder / "latents"),
        model__input_size=8,
        sample__tokenizer=str(folder / "tokenizer"),
        sample__num_steps=3,
        sample__batch_size=8,
        train__evaluate_every_steps=2,
        evaluate__train_samples=COUNT,
    )


@pytest.fixture(scope="module")
def dit(config):
    """A generator whose output is not zero."""

    @jax.jit
    def make():
        graphdef, params = nnx.split(LightningDiT(generator_config(config), rngs=nnx.Rngs(0)))
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
        return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))

    return make()


@pytest.fixture(scope="module")
def images(config, folder, dit):
    """Drawn by the other way there is: a generator and a tokenizer in memory."""
    options = config.sample
    return generate(
        dit,
        load(str(folder / "tokenizer")),
        np.arange(COUNT) % 10,
        seed=config.seed,
        num_steps=options.num_steps,
        cfg_scale=options.cfg_scale,
        cfg_channels=options.cfg_channels,
        latent_stats=load_stats(folder / "latents"),
        batch_size=8,
    )


@pytest.fixture
def state(dit):
    """The average is the generator, the weights are others."""
    ema = nnx.to_pure_dict(nnx.state(dit, nnx.Param))
    params = jax.tree.map(jax.numpy.zeros_like, ema)
    return types.SimpleNamespace(params=params, averages={"ema": ema})


def test_digits_of_the_averaged_weights(config, state, images):
    evaluator = make_training_evaluator(config)
    judge, digits = digits_judge(), digits_to_8x8(images)
    wanted = {
        "digits_fid": pytest.approx(judge.frechet_distance(digits), rel=1e-3),
        "recognised_share": judge.recognised_share(digits, np.arange(COUNT) % 10),
    }
    assert evaluator(2, state) == wanted
    assert evaluator(2, types.SimpleNamespace(params=state.averages["ema"], averages={})) == wanted
    assert evaluator(2, types.SimpleNamespace(params=state.params, averages={})) != wanted
    config = config.changed(sample={"ema_decay": 0.5}, train={"ema_decays": (0.5,)})
    averages = {"ema": state.params, "ema_0.5": state.averages["ema"]}
    several = types.SimpleNamespace(params=state.params, averages=averages)
    assert make_training_evaluator(config)(2, several) == wanted


def test_fid_of_the_averaged_weights(config, state, images, monkeypatch, tmp_path):
    tiny_inception.use(monkeypatch)
    real = tiny_inception.features(0, np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3)))
    reference = ReferenceMoments(*(Moments.of(real[n]).gaussian for n in ("pool", "spatial")))
    np.savez(tmp_path / "ref.npz", **reference.to_arrays())
    config = tiny.replaced(
        config,
        "evaluate",
        metric="fid",
        inception="0",
        reference=str(tmp_path / "ref.npz"),
        batch_size=8,
    )
    found = make_training_evaluator(config)(2, state)
    want = tiny_inception.features(0, images)
    distance = frechet_distance(*reference.pool, *Moments.of(want["pool"]).gaussian)
    assert found["fid"] == pytest.approx(distance, rel=1e-4)
    assert found["inception_score"] == pytest.approx(inception_score(want["logits"]), rel=1e-4)


def test_a_picture_of_the_averaged_weights(config, state, images, tmp_path):
    config = config.changed(train={"evaluate_every_steps": 0, "picture_every_steps": 1})
    found = make_training_picture(config, None, None)(tmp_path / "p" / "7.png", state)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p" / "7.png")), found)
    side, gap = 64, 2  # 16 pixels, four times enlarged; a column a class
    assert found.shape == (4 * (side + gap) + gap, 10 * (side + gap) + gap, 3)
    for i, image in enumerate(images):
        top, left = gap + i // 10 * (side + gap), gap + i % 10 * (side + gap)
        tile = found[top : top + side : 4, left : left + side : 4]
        np.testing.assert_allclose(tile.astype(int), image.astype(int), atol=1)


@pytest.mark.slow
def test_a_picture_of_what_a_tokenizer_rebuilds(tmp_path):
    config = tiny.config("digits_vavae", train__picture_every_steps=1)
    source, architecture = open_source(config), tokenizer_config(config)
    make = jax.jit(lambda: nnx.split(VAVAE(architecture, rngs=nnx.Rngs(0)), nnx.Param))
    graphdef, params = make()
    ema = nnx.to_pure_dict(params)

    @jax.jit
    def decoded(params, images):
        latents, _ = make_encoder(graphdef, config.seed)(params, images, np.arange(10))
        return nnx.merge(graphdef, params).decode(latents)

    state = types.SimpleNamespace(params=jax.tree.map(jnp.zeros_like, ema), averages={"ema": ema})
    found = make_training_picture(config, None, source)(tmp_path / "1.png", state)
    shown = np.arange(10) * len(source) // 10
    images = np.stack([np.asarray(source.source.image(int(i)).convert("RGB")) for i in shown])
    rebuilt = np.clip(127.5 * np.asarray(decoded(ema, images)) + 128, 0, 255).astype(np.uint8)
    side, gap = 64, 2
    rows = [found[gap + k * (side + gap) :][:side:4, gap:-gap] for k in (0, 1)]
    for row, wanted, tolerance in zip(rows, (images, rebuilt), (0, 1)):
        for i, image in enumerate(wanted):
            tile = row[:, i * (side + gap) :][:, :side:4]
            np.testing.assert_allclose(tile.astype(int), image.astype(int), atol=tolerance)


@pytest.mark.slow
def test_training_records_it_on_a_mesh_that_cuts_the_weights(config, tmp_path):
    config = tiny.replaced(config, "mesh", fsdp=4)
    config = tiny.replaced(config, "train", num_steps=3, best_metric="digits_fid")
    evaluator = make_training_evaluator(config)
    last = train(config, str(tmp_path), lambda planned, scaling: evaluator)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {r["step"]: r["eval/digits_fid"] for r in records if "eval/digits_fid" in r}
    assert list(found) == [2, 3]
    assert evaluator(3, last)["digits_fid"] == pytest.approx(found[3], rel=1e-6)
    assert found[2] != found[3]


def test_it_is_off_where_nothing_asks_for_it(config):
    off = tiny.replaced(config, "train", evaluate_every_steps=0)
    assert make_training_evaluator(off) is None
    tokenizer = tiny.config("digits_vavae", train__evaluate_every_steps=2)
    assert make_training_evaluator(tokenizer) is None


def test_what_is_missing_is_named_before_training(config, folder):
    for section, changes, message in [
        ("sample", {"tokenizer": ""}, r"config\.sample\.tokenizer is empty; evaluation within"),
        (
            "sample",
            {"ema_decay": 0.7},
            "train.ema_decays has no average 'ema_0.7'; there are: ema;",
        ),
        ("evaluate", {"metric": "fid"}, r"config\.evaluate\.inception is empty"),
        ("model", {"in_channels": 4}, "latents of 4 channels, the tokenizer .* decodes 8"),
    ]:
        wrong = tiny.replaced(config, section, **changes)
        with pytest.raises(ValueError, match=message):
            make_training_evaluator(wrong)
    absent = tiny.replaced(config, "sample", tokenizer=str(folder / "nothing"))
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        make_training_evaluator(absent)
