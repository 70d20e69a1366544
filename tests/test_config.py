"""Configs: every file builds, every mistake is named."""

import importlib
import itertools
import pathlib
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax import config
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_ranges import RANGES
from lightningdit_jax.configs import paper
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.pipeline import LatentBatches, make_pipeline
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.sampling_options import SamplingOptions
from lightningdit_jax.training.job import abstract_generator_job
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent
FILES = {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__", "paper", "workdir"}
NAMES = sorted(FILES | {"photos_64:generator"} | {f"paper:{row}" for row in paper.rows()})


def load(name):
    file, _, row = name.partition(":")
    return importlib.import_module(f"lightningdit_jax.configs.{file}").get_config(
        *[row] if row else []
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_config_describes_a_model(name):
    c = config.from_dict(load(name))
    generator_config(c)
    tokenizer_config(c)


def test_published_recipes():
    c64, c800 = config.from_dict(load("dit_xl")), config.from_dict(load("dit_xl_800ep"))
    assert (c64.train.num_steps, c64.train.batch_size, c64.sample.cfg_scale) == (80_000, 1024, 10.0)
    assert (c800.train.num_steps, c800.flow.uniform_from_step) == (1_000_000, 600_000)
    assert (c800.sample.cfg_scale, c800.sample.cfg_interval_start) == (6.7, 0.125)
    assert c64.optimizer.learning_rate == 2e-4 and c64.optimizer.beta2 == 0.95
    ig = config.from_dict(load("dit_xl_ig"))
    assert (ig.model.aux_head_depth, ig.flow.aux_loss_weight) == (8, 0.5)
    assert (ig.flow.timesteps, ig.flow.cosine_weight, ig.sample.solver) == ("uniform", 1.0, "heun2")
    guidance = (ig.sample.cfg_scale, ig.sample.cfg_interval_start, ig.sample.cfg_channels)
    assert guidance == (1.45, 0.19, 0)
    assert (ig.sample.ig_scale, ig.sample.timestep_shift, ig.sample.num_steps) == (1.4, 0.3, 125)
    assert (ig.train.batch_size, ig.optimizer.max_grad_norm) == (256, 1.0)
    by = ig.optimizer
    assert (by.name, by.learning_rate, by.momentum, by.weight_decay) == (
        "muon_all",
        2e-4,
        0.95,
        0.01,
    )
    assert (by.beta1, by.beta2, by.eps) == (0.9, 0.95, 1e-8)


def test_rows_of_the_paper():
    """What the paper says of a row, against the accumulated changes."""
    last = config.from_dict(load("paper:ladder_vavae"))
    xl = config.from_dict(load("dit_xl"))
    assert (last.model, last.data, last.optimizer, last.flow) == (
        xl.model,
        xl.data,
        xl.optimizer,
        xl.flow,
    )
    assert last.train.num_steps == 100_000 and last.sample.solver == "dopri5"
    first = config.from_dict(load("paper:ladder_rectified_flow"))
    assert (first.train.batch_size, first.train.num_steps) == (256, 400_000)
    assert generator_config(first).grid == generator_config(last).grid == 16
    small = config.from_dict(load("paper:f16d64_mae_b"))
    assert (small.model.in_channels, small.train.num_steps) == (64, 200_000)
    nearest = "has no row 'xl_80ep'; its rows: xl_800ep, xl_800ep_cfg, xl_64ep"
    with pytest.raises(ValueError, match=nearest):
        paper.get_config("xl_80ep")


def test_the_two_parts_for_photographs_fit_each_other():
    vae, dit = (config.from_dict(load(f"photos_64:{p}")) for p in ("tokenizer", "generator"))
    assert load("photos_64") == load("photos_64:tokenizer") and vae.tokenizer.resolution == 64
    side = vae.tokenizer.resolution // 2 ** (len(vae.tokenizer.ch_mult) - 1)
    assert (dit.model.input_size, dit.model.in_channels) == (side, vae.tokenizer.embed_dim)
    assert vae.data.flip and dit.data.flip and vae.data.augment == "random_crop"
    assert vae.frozen.lpips == vae.frozen.foundation == ""  # nothing to fetch
    with pytest.raises(ValueError, match="no part 'generater'; its parts: tokenizer, generator"):
        load("photos_64:generater")


def test_configs_import_only_ml_collections_and_the_standard_library():
    """And of the package the defaults of sampling, which ldj.generate has without a config."""
    ours = ("lightningdit_jax.configs", SamplingOptions.__module__)
    known = ("ml_collections", *sys.stdlib_module_names)
    for path in (ROOT / "configs").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                name = line.split()[1]
                assert name.split(".")[0] in known or name in ours, line


def test_reading_a_config_does_not_wait_for_jax():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "from lightningdit_jax.configs import dit_xl; dit_xl.get_config()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def broken(**changes):
    c = load("base").to_dict()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            c[section][name] = value
        else:
            c[section] = value
    return c


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__batch_sise": 1}, "train.batch_sise'; did you mean 'train.batch_size'"),
        ({"kind": "dit"}, "config.kind 'dit'.*lightningdit, vavae"),
        ({"train__nonfinite": "ignore"}, "config.train.nonfinite 'ignore'"),
        ({"train__batch_size": 0}, "config.train.batch_size is 0; expected at least 1"),
        ({"train__batch_size": 1.5}, "config.train.batch_size is 1.5; expected int"),
        ({"data__flip": "yes"}, "config.data.flip is 'yes'; expected bool"),
        ({"mesh__fsdp": "all"}, "config.mesh.fsdp is 'all'; expected int or 'auto'"),
        ({"train__accumulate_steps": 2.0}, "accumulate_steps is 2.0; expected int or 'auto'"),
        ({"sample__batch_size": 0}, "config.sample.batch_size is 0; expected at least 1"),
        ({"tokenizer__ch_mult": 3}, "config.tokenizer.ch_mult is 3; expected a tuple of int"),
        ({"tokenizer__ch_mult": (1, 0)}, r"ch_mult is \(1, 0\); expected at least 1"),
        ({"seed": 2**32}, "config.seed is 4294967296; expected at least 0 and at most 4294967295"),
        ({"seed": -1}, "config.seed is -1"),
        ({"seed": True}, "config.seed is True; expected int"),
        ({"optimizer__beta1": -1.0}, "beta1 is -1.0; expected at least 0.0 and below 1.0"),
        ({"optimizer__beta2": 1.0}, "beta2 is 1.0; expected at least 0.0 and below 1.0"),
        ({"train__ema_decay": 20}, "ema_decay is 20.0; expected at least 0.0 and below 1.0"),
        ({"train__num_steps": 2**31}, "num_steps is 2147483648"),
        ({"sample__num_samples": 2**32 + 1}, "num_samples is 4294967297"),
        ({"data__latent_multiplier": 0.0}, "latent_multiplier is 0.0; expected above 0.0"),
        ({"train__checkpoint_every_steps": 0}, "checkpoint_every_steps is 0; expected at least 1"),
        ({"train__keep_every_steps": 30_000}, "keep_every_steps is 30000, .*a multiple of"),
        ({"model__depth": 0}, "config.model.depth is 0; expected at least 1"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config.from_dict(broken(**changes))


FLOATS = [
    key
    for key, hint in key_types(config.Config).items()
    if hint is float or typing.get_args(hint)[:1] == (float,)
]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", FLOATS)
def test_every_number_has_to_be_finite(key, number):
    good = config.from_dict(broken()).value(key)
    bad = (number,) * max(len(good), 1) if isinstance(good, tuple) else number
    with pytest.raises(
        ValueError, match=rf"config\.{key} is \(?-?(nan|inf).*; expected (a finite|no value)"
    ):
        config.from_dict(broken(**{key.replace(".", "__"): bad}))


def test_a_tokenizer_may_have_no_residual_blocks_where_its_levels_are_as_wide():
    config = tiny.config("digits_vavae")
    assert config.tokenizer.num_res_blocks == 0 and config.tokenizer.ch_mult == (1, 1)
    architecture = tokenizer_config(config)
    graphdef, params = abstract_model("vavae", architecture)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    posterior = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p).encode(x), params, images)
    assert posterior.mean.shape == (1, 8, 8, 8)
    for widths in ((1, 2), (2, 1)):
        wider = tiny.config("digits_vavae", tokenizer__ch_mult=widths)
        with pytest.raises(ValueError, match=r"num_res_blocks is 0 with ch_mult \(., .\); without"):
            tokenizer_config(wider)
    with pytest.raises(ValueError, match="num_res_blocks is -1; expected at least 0"):
        tiny.config("digits_vavae", tokenizer__num_res_blocks=-1)


def test_ranges_are_of_keys():
    assert RANGES.keys() <= key_types(config.Config).keys()


def test_the_last_seed_is_a_run_of_its_own(tmp_path):
    job = abstract_generator_job(tiny.config("digits_dit"), make_mesh())
    latents = LatentBatches(LatentShards(tiny.write_latents(tmp_path)))

    def order(seed):
        options = {"global_batch_size": 8, "flip": False, "num_threads": 1, "prefetch_batches": 1}
        return next(iter(make_pipeline(latents, seed=seed, **options)))["latents"]

    seeds = (2**32 - 1, 2**32 - 2, 0)
    kernels = [np.asarray(job.init_params(seed)["x_embedder"]["kernel"]) for seed in seeds]
    for values in (kernels, [order(seed) for seed in seeds]):
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(values, 2))


def test_missing_key_is_named():
    c = broken()
    del c["train"]["num_steps"]
    with pytest.raises(ValueError, match=r"config.train.num_steps is missing"):
        config.from_dict(c)
