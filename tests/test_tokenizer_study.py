"""The study of tokenizers: its statistics against scipy's, its images and its scaled tokenizers."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from benchmarks import rank_correlations, tokenizer_pictures, tokenizer_results
from benchmarks.tokenizer_runs import with_unit_latents
from benchmarks.tokenizer_variants import DIGITS, PHOTOGRAPHS, digits_configs, photographs_configs
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAE
from tests import tiny


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(ties):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    if ties:
        x, y = np.round(x), np.round(y)
    assert rank_correlations.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlations.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_an_interval_is_narrow_where_seeds_and_tokenizers_agree_and_wide_where_not():
    rng = np.random.default_rng(1)
    rising = np.arange(12.0)[:, None] + np.zeros(3)
    sure = rank_correlations.correlation(rank_correlations.spearman, rising, 2 * rising + 1)
    assert tuple(sure) == pytest.approx((1.0, 1.0, 1.0))
    unsure = rank_correlations.correlation(
        rank_correlations.spearman, rising, rng.normal(size=(12, 3))
    )
    assert unsure.low < unsure.value < unsure.high and unsure.high - unsure.low > 0.5


def test_what_chance_makes_of_the_largest():
    """Of one measure it is the critical value of tables, 0.587 for 12; of more it is larger."""
    x, *others = np.random.default_rng(2).normal(size=(30, 12))
    one = rank_correlations.chance_of_largest(x[None], np.arange(12.0))
    assert one == pytest.approx(0.587, abs=0.03)
    assert rank_correlations.chance_of_largest(np.array([x, *others]), np.arange(12.0)) > one + 0.1
    assert rank_correlations.chance_of_largest(np.array([x, x]), np.arange(12.0)) == one


def test_the_share_of_seeds_is_that_of_a_simulated_study():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2000, 1)) + 0.5 * rng.normal(size=(2000, 3))
    assert rank_correlations.share_of_seeds(values) == pytest.approx(0.25 / 1.25, abs=0.02)


def test_tables_rank_by_the_size_of_a_correlation():
    def run(fid, **numbers):
        return {"fid": {"0": fid - 0.1, "1": fid + 0.1}, "numbers": numbers}

    rows = {
        f"t{i}": {
            str(seed): run(
                fid + 0.01 * seed,
                reconstruction_psnr=20.0 + (i * 7) % 5 + 0.1 * seed,
                reconstruction_digits_fid=fid,
                latent_numbers=128,  # alike, and so no measure
            )
            for seed in range(3)
        }
        for i, fid in enumerate([3.0, 1.0, 4.0, 2.0, 5.0])
    }
    lines = tokenizer_results.correlations_table(rows, "digits_").splitlines()
    assert lines[0].startswith("2 measures of 5 tokenizers with 3 seeds each.")
    assert lines[-2].startswith("| `reconstruction_fid` | - | +1.00 (")
    assert lines[-1].startswith("| `reconstruction_psnr` | + |")
    table = tokenizer_results.tokenizers_table(rows, "digits_").splitlines()
    assert table[3].endswith("| -2.00 to -2.00 |") and "latent_numbers" not in table[0]


def test_a_scaled_tokenizer_encodes_to_unit_latents_and_decodes_the_same():
    """Of its 1x1 convolutions, which are all that is changed."""
    width, dim, rng = 6, 4, np.random.default_rng(4)

    def convolution(inputs, outputs):
        kernel, bias = rng.normal(size=(1, 1, inputs, outputs)), rng.normal(size=outputs)
        return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}

    params = {
        "quant_conv": convolution(2 * width, 2 * dim),
        "post_quant_conv": convolution(dim, width),
        "encoder": {"kernel": jnp.ones(3)},
    }
    architecture = tokenizer_config(tiny.config("digits_vavae"))
    vae = nnx.eval_shape(lambda: VAVAE(architecture, rngs=CountedRngs(0)))
    assert params.keys() <= nnx.to_pure_dict(nnx.state(vae, nnx.Param)).keys()

    def through(params, name, x):
        return x @ np.asarray(params[name]["kernel"][0, 0]) + np.asarray(params[name]["bias"])

    mean, std = np.linspace(-1, 1, dim), np.linspace(0.5, 2, dim)
    scaled = with_unit_latents(params, LatentScaling(tuple(mean), tuple(std)))
    x = rng.normal(size=(2, 3, 3, 2 * width))
    posterior, unit = (
        DiagonalGaussian.from_moments(jnp.asarray(through(p, "quant_conv", x)))
        for p in (params, scaled)
    )
    np.testing.assert_allclose(unit.mean, (posterior.mean - mean) / std, atol=1e-5)
    np.testing.assert_allclose(unit.std, posterior.std / std, rtol=1e-5)
    decoded = [
        through(p, "post_quant_conv", np.asarray(g.mean))
        for p, g in ((params, posterior), (scaled, unit))
    ]
    np.testing.assert_allclose(*decoded, atol=1e-5)
    assert scaled["encoder"] is params["encoder"]


def test_held_out_crops_share_no_pixel_with_others_and_flat_ones_have_no_texture():
    tiles = [np.full((64, 64, 3), number, np.uint8) for number in range(11)]
    held_out, others = tiles[:: tokenizer_pictures.HELD_OUT], tokenizer_pictures._others(tiles)
    assert sorted(int(t[0, 0, 0]) for t in [*held_out, *others]) == list(range(11))
    crops = np.stack(tokenizer_pictures._crops(tiles[8]))
    assert crops.shape == (9, 32, 32, 3)
    features = tokenizer_pictures.crop_features(crops)
    np.testing.assert_allclose(features[:, :48], 8 / 255)
    np.testing.assert_allclose(features[:, 48:], -4.0)


def test_each_variant_is_a_config_of_its_own(tmp_path):
    for variants, bases in (
        (DIGITS, digits_configs(tmp_path, 300)),
        (PHOTOGRAPHS, photographs_configs(300)),
    ):
        tokenizers = [variant.tokenizer(bases[0]) for variant in variants]
        assert len(set(tokenizers)) == len(variants) == len({v.name for v in variants})
        for variant, tokenizer in zip(variants, tokenizers):
            generator = variant.generator(bases[1])
            assert generator.model.in_channels == tokenizer.tokenizer.embed_dim
