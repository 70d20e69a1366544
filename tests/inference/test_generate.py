"""Samples are functions of (seed, index, label): not of batch size, devices or mesh."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.sampling.generate import generate
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure, initial_noise
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.pixels import to_uint8
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

VAE = VAVAEConfig(8, 3, 32, (1, 1), 1, (), (), 8, 8)
LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
SETTINGS = {
    "seed": 7,
    "num_steps": 4,
    "cfg_scale": 3.0,
    "cfg_channels": 3,
    "cfg_interval_start": 0.3,
    "timestep_shift": 0.5,
    "latent_stats": LatentScaling((0.5,) * 8, (2.0,) * 8),
}


@pytest.fixture(scope="module")
def models():
    dit = LightningDiT(tiny.dit_config(), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(dit, nnx.Param)
    # Zero-initialized outputs would sample noise unchanged, whatever the labels.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves)), VAVAE(VAE, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def reference(models):
    one = make_mesh(devices=jax.devices()[:1])
    return generate(*models, LABELS, batch_size=11, mesh=one, **SETTINGS)


def assert_same_images(a, b):
    """Equal but for rounding: XLA orders sums by batch size, so a pixel may move by one level."""
    difference = np.abs(a.astype(int) - b.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


def test_samples_are_images_that_differ(reference):
    assert reference.shape == (11, 8, 8, 3) and reference.dtype == np.uint8
    assert np.abs(reference[1].astype(int) - reference[3]).max() > 5  # same label, other index


@pytest.mark.parametrize(
    ("devices", "mesh", "batch_size"),
    [
        (1, {}, 4),
        pytest.param(8, {}, 8, marks=pytest.mark.slow),
        (8, {"data": 2, "fsdp": 2, "tensor": 2}, 16),
    ],
)
def test_batch_size_and_devices_change_nothing(models, reference, devices, mesh, batch_size):
    mesh = make_mesh(**mesh, devices=jax.devices()[:devices])
    images = generate(*models, LABELS, batch_size=batch_size, mesh=mesh, **SETTINGS)
    assert_same_images(images, reference)


def test_start_index_continues_the_sequence(models, reference):
    one = make_mesh(devices=jax.devices()[:1])
    tail = generate(*models, LABELS[7:], start_index=7, batch_size=4, mesh=one, **SETTINGS)
    assert_same_images(tail, reference[7:])


def test_kinds_of_guidance_at_once(models, reference):
    """And a model of data, against Euler's steps in NumPy; the defaults are what they were."""
    one = {"mesh": make_mesh(devices=jax.devices()[:1]), "batch_size": 11}
    off = {"cfg_schedule": "constant", "cfg_zero_init_steps": 0, "cfg_optimized_scale": False}
    off |= {"apg_eta": 1.0, "apg_norm_threshold": 0.0, "apg_momentum": 0.0}
    np.testing.assert_array_equal(generate(*models, LABELS, **one, **SETTINGS, **off), reference)

    dit, vae = nnx.merge(*nnx.split(models[0])), models[1]
    dit.flow = Flow("linear", "data")
    settings = {"num_steps": 5, "cfg_scale": 4.0, "cfg_channels": 3, "cfg_interval_start": 0.3}
    settings |= {"cfg_schedule": "cosine", "cfg_optimized_scale": True, "cfg_zero_init_steps": 1}
    settings |= {"apg_eta": 0.25, "apg_norm_threshold": 4.0, "apg_momentum": -0.5}
    labels, call = np.array(LABELS[:4]), jax.jit(dit)
    images = generate(dit, vae, labels, latent_stats="none", timestep_shift="dimension", **settings)

    def velocity(x, t, y):
        data = np.asarray(call(x, np.full(4, t, np.float32), y), np.float64)
        return (data - x) / max(1 - t, 0.05)

    def inner(a, b):
        return (a * b).sum((1, 2, 3), keepdims=True)

    x = np.asarray(initial_noise(0, np.arange(4), (4, 4, 8)), np.float64)
    grid, memory = np.linspace(0, 1, 5), 0.0
    shift = (4096 / 128) ** 0.5
    grid = shift * grid / (1 + (shift - 1) * grid)
    for t, end in itertools.pairwise(grid[1:]):
        v = velocity(x, t, labels)
        if t >= 0.3:
            label, null = (a[..., :3] for a in (v, velocity(x, t, np.full(4, 10))))
            null = inner(label, null) / inner(null, null) * null
            memory = (1 - t) * (label - null) - 0.5 * memory
            update = memory * np.minimum(1, 4 / np.sqrt(inner(memory, memory)))
            data = x[..., :3] + (1 - t) * label
            update -= 0.75 * inner(update, data) / inner(data, data) * data
            v[..., :3] += 3 * (1 - np.cos(np.pi * t)) * update / (1 - t)
        x = x + (end - t) * v
    want = to_uint8(vae.decode(np.asarray(x, np.float32)))
    assert_same_images(images, np.asarray(want))


def test_every_index_and_seed_is_a_sample_of_its_own(models):
    """At both ends of the range, and where an int32 would turn negative."""
    last = 2**32 - 1
    settings = SETTINGS | {"mesh": make_mesh(devices=jax.devices()[:1]), "num_steps": 2}
    indices = [(0, index) for index in (0, 2**31 - 1, 2**31, last - 1, last)]
    seeds = [(seed, 0) for seed in (1, last - 1, last)]
    images = [
        generate(*models, [3], **settings | {"seed": seed, "start_index": index, "batch_size": 1})
        for seed, index in [*indices, *seeds, (last, last)]
    ]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.abs(image.astype(int) - other).max() > 5
    numpy = {"seed": np.int64(last), "start_index": np.uint32(last), "batch_size": np.int64(1)}
    np.testing.assert_array_equal(generate(*models, [3], **settings | numpy), images[-1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 2**32}, r"seed is 4294967296; expected a whole number from 0 to 4294967295"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"start_index": 2**32 - 2}, "start_index is 4294967294; .* from 0 to 4294967293"),
        ({"start_index": -1}, "start_index is -1"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number from 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"labels": []}, "labels are"),
    ],
)
def test_numbers_out_of_range_are_refused_at_the_start(models, values, message):
    with pytest.raises(ValueError, match=message):
        generate(*models, **{"labels": [1, 2, 3]} | SETTINGS | values)


def test_noise_depends_on_seed_and_index_alone():
    noise = initial_noise(3, np.arange(6), (2, 2, 5))
    np.testing.assert_array_equal(noise[4:5], initial_noise(3, np.array([4]), (2, 2, 5)))
    assert not np.array_equal(noise, initial_noise(4, np.arange(6), (2, 2, 5)))
    many = initial_noise(0, np.arange(2000), (20,))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


@pytest.mark.slow
def test_sde_noise_depends_on_the_sample_alone(models):
    settings = SETTINGS | {"solver": "sde_euler", "timestep_shift": 0.0}
    one = make_mesh(devices=jax.devices()[:1])
    images = generate(*models, LABELS, batch_size=11, mesh=one, **settings)
    others = generate(*models, LABELS[3:], batch_size=8, start_index=3, **settings)
    assert_same_images(others, images[3:])


@pytest.mark.slow
def test_autoguidance_against_the_null_label_is_guidance(models):
    """A weak model that ignores labels and answers as the strong one does for the null label."""
    dit, vae = models
    graphdef, params = nnx.split(dit, nnx.Param)
    weak = nnx.merge(graphdef, jax.tree.map(lambda p: p, params))
    table = weak.y_embedder.embedding[...]
    weak.y_embedder.embedding[...] = jax.numpy.tile(table[-1], (len(table), 1))
    settings = SETTINGS | {"mesh": make_mesh(devices=jax.devices()[:1]), "cfg_channels": 0}
    got = generate(dit, vae, LABELS[:4], weak=weak, **settings)
    assert_same_images(got, generate(dit, vae, LABELS[:4], **settings))
    unguided = generate(dit, vae, LABELS[:4], weak=weak, **settings | {"cfg_scale": 1.0})
    assert np.abs(got.astype(int) - unguided).max() > 1


def test_decoding_in_parts_changes_nothing(models, reference):
    mesh = make_mesh(devices=jax.devices()[:2])
    images = generate(*models, LABELS, batch_size=12, decode_batch_size=2, mesh=mesh, **SETTINGS)
    assert_same_images(images, reference)


def test_damaged_weights_are_noticed(models):
    dit, vae = models
    graphdef, params = nnx.split(dit, nnx.Param)
    damaged = nnx.merge(graphdef, jax.tree.map(lambda p: p * np.nan, params))
    damaged_latents = (
        r"the latents of sample 5, sample 6 are not finite: .*weights of the generator"
    )
    with pytest.raises(FloatingPointError, match=damaged_latents):
        generate(damaged, vae, [1, 2], start_index=5, num_steps=3, latent_stats="none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [10]}, "from 10 to 10; expected 0 to 9"),
        ({"labels": [0.5]}, "expected a list of class numbers"),
        ({"cfg_channels": 9, "cfg_scale": 2.0}, "cfg_channels is 9"),
    ],
)
def test_bad_arguments_are_named(models, changes, message):
    arguments = {"labels": [0], **changes}
    with pytest.raises(ValueError, match=message):
        generate(*models, latent_stats="none", **arguments)


def test_guidance_by_a_null_class_that_is_not_there_is_refused(models, tmp_path):
    """By every job that draws, before anything is drawn or written; a weak generator does."""
    dit = LightningDiT(tiny.dit_config(class_dropout_prob=0.0, input_size=8), rngs=nnx.Rngs(0))
    told = "cfg_scale is 3.0, but the generator was trained with class_dropout_prob 0 and has no n"
    with pytest.raises(ValueError, match=told):
        generate(dit, models[1], LABELS, **SETTINGS)
    save_generator(tmp_path / "g", dit, flow=Flow(), scaling=LatentScaling())
    config = tiny.config(
        "digits_dit",
        data__path=str(tiny.write_latents(tmp_path / "latents", size=8)),
        model__input_size=8,
        model__class_dropout_prob=0.0,
        train__evaluate_every_steps=1,
        sample__checkpoint=str(tmp_path / "g"),
        sample__tokenizer=str(save_tokenizer(tmp_path / "t")),
        sample__num_samples=4,
        sweep__num_samples=4,
        sample__cfg_scale=3.0,
    )
    for job in (sample, sweep):
        with pytest.raises(ValueError, match=told):
            job(config, str(tmp_path / "w"))
    with pytest.raises(ValueError, match=told):
        make_training_evaluator(config)
    assert not (tmp_path / "w").exists()
    graphdef = nnx.graphdef(dit)
    structure = Structure(graphdef, graphdef, dit.config, LatentScaling())
    structure.fitted(Sampling(cfg_scale=1.0))
    dataclasses.replace(structure, weak=graphdef).fitted(Sampling(cfg_scale=3.0))
    told = "ig_scale is 1.4, but the generator has no second head to guide by .*set ig_scale to 1"
    config = config.changed(sample={"cfg_scale": 1.0, "ig_scale": 1.4})
    for job in (sample, sweep):
        with pytest.raises(ValueError, match=told):
            job(config, str(tmp_path / "w"))
    with pytest.raises(ValueError, match=told):
        make_training_evaluator(config)
    with pytest.raises(ValueError, match=told):
        generate(*models, LABELS, ig_scale=1.4, latent_stats="none")
    assert not (tmp_path / "w").exists()


TWO_HEADS = tiny.dit_config(aux_head_depth=1)


def two_heads():
    """(a generator of two blocks, that of the first block and the second head alone)."""
    dit = random_generator(TWO_HEADS)
    graphdef = nnx.graphdef(LightningDiT(tiny.dit_config(depth=1), rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(dit, nnx.Param))
    params["blocks"] = jax.tree.map(lambda leaf: leaf[:1], params["blocks"])
    params["final_layer"] = params.pop("aux_head")
    return dit, nnx.merge(graphdef, params)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun2", "dopri5", "ucgm", "sde_euler"])
def test_internal_guidance_is_autoguidance_by_the_first_blocks(models, solver):
    """As a weak generator of its own, which has its own pass over these."""
    dit, weak = two_heads()
    common = SETTINGS | {"cfg_channels": 0, "solver": solver, "num_steps": 6}
    common |= {"mesh": make_mesh(devices=jax.devices()[:1]), "cfg_interval_start": 0.0}
    if solver in ("ucgm", "sde_euler"):
        common["timestep_shift"] = 0.0
    interval = {"interval_start": 0.2, "interval_end": 0.8}
    internal, auto = (
        {f"{kind}_{name}": value for name, value in interval.items()} | {f"{kind}_scale": 2.5}
        for kind in ("ig", "cfg")
    )
    got = generate(dit, models[1], LABELS[:4], **common | {"cfg_scale": 1.0} | internal)
    want = generate(dit, models[1], LABELS[:4], weak=weak, **common | auto)
    assert_same_images(got, want)
    plain = generate(dit, models[1], LABELS[:4], **common | {"cfg_scale": 1.0})
    assert np.abs(got.astype(int) - plain).max() > 5


def test_flops_of_a_sample():
    """Of every velocity one pass, guided internally or not, by hand."""
    dit, weak = (nnx.split(model, nnx.Param) for model in two_heads())
    structure = Structure(dit[0], dit[0], TWO_HEADS, LatentScaling())
    sampler = Sampler(structure, {"dit": dit[1]}, make_mesh(), 8)
    guided = dataclasses.replace(
        sampler,
        structure=dataclasses.replace(structure, weak=weak[0]),
        weights={"dit": dit[1], "weak": weak[1]},
    )
    tokens, dim, hidden, channels = 16, 16, TWO_HEADS.mlp_hidden, 8
    block = tokens * (4 * dim**2 + 3 * dim * hidden + 2 * tokens * dim) + 6 * dim**2
    head = tokens * dim * channels + 2 * dim**2
    rest = tokens * channels * dim + 256 * dim + dim**2
    strong, small = 2 * (2 * block + head + rest), 2 * (block + head + rest)
    settings = {"num_steps": 11, "cfg_scale": 3.0, "cfg_interval_start": 0.45}  # 5 of 10 guided
    for one, internal in ((strong, 1.0), (strong + 2 * head, 1.4)):
        sampling = Sampling(**settings, ig_scale=internal)
        assert sampler.generator_flops(sampling) == 15 * one
        assert guided.generator_flops(sampling) == 10 * one + 5 * small
        alone = dataclasses.replace(sampling, cfg_scale=1.0)
        assert sampler.generator_flops(alone) == 10 * one
    assert sampler.generator_flops(Sampling(solver="dopri5")) is None
