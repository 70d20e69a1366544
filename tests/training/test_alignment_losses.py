"""The losses of pooled features and of the variance of latents, against formulas in loops."""

import functools
import itertools
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_vae_loss import VAELossConfig
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training import alignment_losses
from lightningdit_jax.training.alignment_losses import (
    AlignmentLoss,
    alignment_loss_of,
    check_batch,
    cka_loss,
    pool_align_loss,
    soft_kl_loss,
)
from lightningdit_jax.training.vae_gradients import AutoencoderTerms, autoencoder_gradients
from lightningdit_jax.training.vae_loss import Stage, latent_losses, latent_weights
from tests import tiny
from tests.training import vae_cases

TEMPERATURE = 0.1
POOLED = {"pool_align": 1, "cka": 4, "soft_kl": 3}  # and the fewest images of a batch


def of(name, **changes):
    return tiny.replaced(tiny.config("digits_vavae"), "vae_loss", alignment_loss=name, **changes)


def row(name) -> AlignmentLoss:
    return alignment_loss_of(of(name, soft_kl_temperature=TEMPERATURE).vae_loss)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


LATENTS = random(6, 3, 4, 5) + 0.4
FEATURES = random(6, 2, 3, 7, seed=1) + 0.4  # of another grid
PROJECTION = random(5, 7, seed=2)


@functools.partial(jax.jit, static_argnums=0)
def value(name, z, features):
    return row(name).loss(z, features, lambda x: x @ PROJECTION, None)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def tokens(image):
    return np.asarray(image, np.float64).reshape(-1, image.shape[-1])


def similarities(images):
    """Of all pairs of images, each the mean of its tokens at length one."""
    means = [np.mean([t / np.sqrt(t @ t) for t in tokens(x)], axis=0) for x in images]
    return np.array([[cosine(a, b) for b in means] for a in means])


def hsic(k, m):
    """Song et al. 2012: the mean over all ordered quadruples of four different images."""
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return np.mean(terms)


def pool_align_by_loops(latents, features):
    return np.mean(
        [
            1 - cosine(tokens(z).mean(axis=0) @ PROJECTION, tokens(f).mean(axis=0))
            for z, f in zip(latents, features)
        ]
    )


def cka_by_loops(latents, features):
    s, t = similarities(latents), similarities(features)
    return 1 - hsic(s, t) / np.sqrt(hsic(s, s) * hsic(t, t))


def soft_kl_by_loops(latents, features):
    s, t = similarities(latents), similarities(features)
    total = 0.0
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        p, q = (np.exp(k[i, others] / TEMPERATURE) for k in (t, s))
        p, q = p / p.sum(), q / q.sum()
        total += (p * np.log(p / q)).sum()
    return total / len(s)


BY_LOOPS = {
    "pool_align": pool_align_by_loops,
    "cka": cka_by_loops,
    "soft_kl": soft_kl_by_loops,
}


@pytest.mark.parametrize("name", BY_LOOPS)
def test_the_formula(name):
    want = BY_LOOPS[name](LATENTS, FEATURES)
    assert value(name, LATENTS, FEATURES) == pytest.approx(want, rel=1e-5)
    # A projection of the mean is the mean of projections, and nothing else is asked of positions.
    turned = LATENTS[:, ::-1].transpose(0, 2, 1, 3)
    assert value(name, turned, FEATURES) == pytest.approx(want, rel=1e-5)
    rounded = jnp.asarray(FEATURES, jnp.bfloat16)
    assert value(name, LATENTS, rounded) == pytest.approx(want, rel=2e-2)
    assert value(name, LATENTS, rounded).dtype == jnp.float32


def test_images_that_are_all_much_alike_lose_no_digits():
    """As at the beginning of training, where all cosines are near 1."""
    alike = (1 + 0.1 * LATENTS).astype(np.float32)
    assert similarities(alike).min() > 0.99
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment_losses, "MIN_HSIC", 0.0)
        got = cka_loss(jnp.asarray(alike), jnp.asarray(FEATURES))
    assert got == pytest.approx(cka_by_loops(alike, FEATURES), rel=1e-4)


@pytest.mark.parametrize("name", ["cka", "soft_kl"])
def test_latents_like_the_features_cost_nothing(name):
    """Whatever turns and scales them; and the order of the images is what counts."""
    turn, _ = np.linalg.qr(random(5, 5, seed=3))
    assert abs(value(name, 3.0 * LATENTS @ turn, LATENTS)) < 1e-5
    same = value(name, LATENTS, FEATURES)
    assert value(name, 3.0 * LATENTS @ turn, FEATURES) == pytest.approx(float(same), rel=1e-4)
    assert value(name, np.roll(LATENTS, 1, axis=0), LATENTS) > 0.05


def test_projected_latents_that_are_the_features_cost_nothing():
    assert abs(value("pool_align", LATENTS, LATENTS @ PROJECTION)) < 1e-6


@pytest.mark.parametrize("name", BY_LOOPS)
def test_gradients_are_finite_where_there_is_no_direction(name):
    loss = jax.jit(jax.value_and_grad(lambda z: value(name, z, FEATURES)))
    for latents in (np.zeros_like(LATENTS), np.ones_like(LATENTS)):
        chex.assert_tree_all_finite(loss(latents))


def test_batches_over_devices_are_compared_as_one():
    @jax.jit
    def losses(z, f):
        def total(z):
            each = [pool_align_loss(z, f, lambda x: x @ PROJECTION), cka_loss(z, f)]
            each.append(soft_kl_loss(z, f, TEMPERATURE))
            return sum(each), jnp.stack(each)

        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(z)
        return each, gradient

    z, f = random(16, 2, 2, 5), random(16, 2, 2, 7, seed=1)
    cut = NamedSharding(make_mesh(8, 1, 1), PartitionSpec("data"))
    got = losses(*jax.device_put((z, f), cut))
    want = losses(z, f)
    assert got[1].sharding.num_devices == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


# A tokenizer of matrices and its adversary, to take every gradient by itself.
IMAGES = random(5, 4, 4, 3, seed=4)
TINY = {"encoder": 0.3 * random(3, 10, seed=5), "decoder": 0.3 * random(5, 3, seed=6)}
NOISE = random(5, 4, 4, 5, seed=7)
CRITIC = random(3, 1, seed=8)
TARGET = random(5, 4, 4, 7, seed=9)


@pytest.mark.parametrize("name", POOLED)
def test_the_weight_balances_gradients_at_the_end_of_the_encoder(name):
    way = row(name)
    config = of(name, disc_weight=0.5, kl_weight=0.1, ve_weight=0.02, magnitude_weight=0.03)
    config = config.changed(vae_loss={"perceptual_weight": 0.0}).vae_loss
    projection = PROJECTION if way.projects else jnp.zeros(())
    stage = Stage(
        generator_factor=jnp.float32(1.0),
        discriminator_factor=jnp.float32(1.0),
        vf_weight=jnp.float32(10.0),
        distmat_margin=jnp.float32(0.25),  # which these losses do not have
        cos_margin=jnp.float32(0.5),
    )

    def encode(params):
        return DiagonalGaussian.from_moments(IMAGES @ params["encoder"])

    def decode(params, z):
        return jnp.tanh(z @ params["decoder"])

    def align(projection, latents):
        return way.loss(latents, TARGET, lambda x: x @ projection, stage)

    terms = AutoencoderTerms(
        encode=encode,
        decode=decode,
        encoder_end=lambda gradient: gradient["encoder"],
        decoder_end=lambda gradient: gradient["decoder"],
        discriminate=lambda images: (images @ CRITIC, None),
        alignment=align,
        aligns_mean=way.of_mean,
        balance=way.balance,
    )

    def parts(params, projection):
        posterior = encode(params)
        z = posterior.mean + posterior.std * NOISE
        y = decode(params, z)
        nll = jnp.abs(IMAGES - y).sum() / len(IMAGES)
        variance, mean = posterior.var, posterior.mean
        kl = 0.5 * (mean**2 + variance - 1 - jnp.log(variance)).sum() / len(z)
        ve = (1 / (variance + 1e-6)).sum() / len(z)
        magnitude = jnp.exp(jnp.abs(z) - 1).sum() / len(z)
        latent = 0.1 * kl + 0.02 * ve + 0.03 * magnitude
        return nll, latent, -(y @ CRITIC).mean(), align(projection, mean)

    @jax.jit  # op by op it takes five times as long
    def both(params, projection):
        got = autoencoder_gradients(terms, params, projection, IMAGES, NOISE, stage, config)
        each = [
            jax.grad(lambda *a, i=i: parts(*a)[i], argnums=(0, 1))(params, projection)
            for i in range(4)
        ]
        return (got.metrics, got.params, got.projection), parts(params, projection), each

    (metrics, params, d_projection), values, each = both(TINY, projection)
    nll, latent, adversary, aligned = (of_params for of_params, _ in each)
    norm = {k: lambda tree, k=k: float(jnp.linalg.norm(tree[k])) for k in TINY}
    d_weight = 0.5 * norm["decoder"](nll) / (norm["decoder"](adversary) + 1e-4)
    rest = jax.tree.map(lambda a, b, c: a + b + d_weight * c, nll, latent, adversary)
    against, eps = (rest, 1e-8) if name in ("cka", "soft_kl") else (nll, 1e-4)
    weight = 10 * norm["encoder"](against) / (norm["encoder"](aligned) + eps)
    assert metrics["vf_weight"] == pytest.approx(weight, rel=1e-4)
    assert metrics["vf_loss"] == pytest.approx(float(values[3]), rel=1e-5)
    total = values[0] + values[1] + d_weight * values[2] + weight * values[3]
    assert metrics["loss"] == pytest.approx(float(total), rel=1e-4)
    want = jax.tree.map(lambda a, b: a + weight * b, rest, aligned)
    for key in TINY:
        np.testing.assert_allclose(params[key], want[key], rtol=1e-4, atol=1e-4 * weight)
    if way.projects:
        np.testing.assert_allclose(d_projection, weight * each[3][1], rtol=1e-3, atol=1e-3)


def test_every_loss_of_the_config_has_a_row():
    names = typing.get_args(key_types(VAELossConfig)["alignment_loss"])
    assert names == tuple(alignment_losses._ROWS) == ("vf", *POOLED)


@pytest.mark.parametrize("name", POOLED)
def test_a_batch_too_small_to_compare_is_refused(name):
    config, least = of(name), POOLED[name]
    check_batch(config.changed(train={"batch_size": least}))
    if least > 1:
        with pytest.raises(ValueError, match=rf"batch_size is {least - 1}, .*'{name}'.* {least}$"):
            check_batch(config.changed(train={"batch_size": least - 1}))


def test_the_variance_expansion_is_off_and_of_elements_where_the_rest_is():
    posterior = DiagonalGaussian(jnp.zeros((2, 1, 1, 3)), jnp.log(jnp.full((2, 1, 1, 3), 0.25)))
    z = jnp.asarray([[-2.0, 0.0, 1.0], [3.0, 1.0, -1.0]]).reshape(2, 1, 1, 3)
    assert latent_weights(vae_cases.RELEASED) == {"kl": 1e-6}
    assert latent_losses(posterior, z, vae_cases.RELEASED).keys() == {"kl"}
    summed = of("vf", ve_weight=0.1, magnitude_weight=1e-6, kl_weight=0.0).vae_loss
    assert latent_weights(summed) == {"kl": 0.0, "ve": 0.1, "magnitude": 1e-6}
    exponentials = np.exp([1.0, -1.0, 0.0, 2.0, 0.0, 0.0])
    got = latent_losses(posterior, z, summed)
    assert got["ve"] == pytest.approx(12.0, rel=1e-5)  # 3 latents, 1 / 0.25 each
    assert got["magnitude"] == pytest.approx(exponentials.sum() / 2, rel=1e-5)
    averaged = of("vf", ve_weight=0.1, magnitude_weight=1e-6, reduction="mean").vae_loss
    got = latent_losses(posterior, z, averaged)
    assert got["ve"] == pytest.approx(4.0, rel=1e-5)
    assert got["magnitude"] == pytest.approx(exponentials.mean(), rel=1e-5)
