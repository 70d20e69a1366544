"""VA-VAE's loss: every row of the release's golden cases, stages, and what errors say."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.config_vae_loss import StagesConfig
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.training.alignment_losses import vf_loss
from lightningdit_jax.training.vae_gradients import (
    AutoencoderTerms,
    autoencoder_gradients,
    discriminator_gradients,
)
from lightningdit_jax.training.vae_loss import (
    Stage,
    discriminator_loss,
    kl_loss,
    reconstruction_loss,
    stage_at,
)
from tests import golden
from tests.training import vae_cases

# One compilation of the loss and its gradients for all rows.
pytestmark = pytest.mark.xdist_group(__name__)

CASE = "vae_loss"


def rows():
    return golden.index()[CASE]["config"]["rows"]


def case():
    return golden.load(CASE)


lpips = functools.cache(vae_cases.lpips)
discriminator = functools.cache(vae_cases.discriminator)


def nhwc(name):
    return jnp.asarray(golden.to_nhwc(case()[f"in.{name}"]))


def kernel(name):
    """OIHW -> HWIO."""
    return jnp.asarray(case()[f"in.{name}"].transpose(2, 3, 1, 0))


def conv(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def parameters():
    """The stand-in's kernels; the shifts are zeros whose gradients are those of rec and z."""
    data = case()
    params = {name: kernel(name) for name in ("w_enc", "w_mid", "w_dec")}
    params["rec"] = jnp.zeros(golden.to_nhwc(data["out.rec"]).shape)
    projection = {"w_proj": kernel("w_proj"), "z": jnp.zeros(golden.to_nhwc(data["out.z"]).shape)}
    return params, projection


def encode(params):
    return DiagonalGaussian.from_moments(conv(nhwc("h_enc"), params["w_enc"]))


def decode(params, z):
    x = jnp.tanh(conv(z, params["w_mid"])).repeat(4, axis=1).repeat(4, axis=2)
    return conv(x, params["w_dec"]) + params["rec"]


def project(projection, z):
    return conv(z, projection["w_proj"]) + projection["z"]


# Compiled once for all rows; everything else is small enough to run op by op.
@jax.jit
def discriminate(params, stats, images):
    network = nnx.merge(discriminator().graphdef, params, stats)
    logits = network(images, train=True)
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


@jax.jit
def perceptual(images):
    return nnx.merge(lpips().graphdef, lpips().params)(nhwc("inputs"), images)


def settings(row):
    """A row's options as our config and stage."""
    options = row["kwargs"]
    factor = options.get("disc_factor", 1.0)
    config = dataclasses.replace(
        vae_cases.RELEASED,
        reduction="mean" if options.get("pp_style") else "sum",
        logvar=options.get("logvar_init", 0.0),
        perceptual_weight=options.get("perceptual_weight", 1.0),
        kl_weight=options["kl_weight"],
        # The release leaves the ratio out where disc_factor is 0.
        disc_weight=options["disc_weight"] if factor else 0.0,
        disc_loss=options.get("disc_loss", "hinge"),
        adaptive_vf=options.get("adaptive_vf", False),
        distmat_weight=options.get("distmat_weight", 1.0),
        cos_weight=options.get("cos_weight", 1.0),
    )
    stage = Stage(
        generator_factor=factor * (row["global_step_g"] >= options["disc_start"]),
        discriminator_factor=factor * (row["global_step_d"] >= options["disc_start"]),
        vf_weight=options.get("vf_weight", 0.0),
        distmat_margin=options.get("distmat_margin", 0.0),
        cos_margin=options.get("cos_margin", 0.0),
    )
    return config, jax.tree.map(jnp.float32, stage)


def expected(name, *parts):
    return case()[".".join(("out", name, *parts))]


def check_gradient(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def check_scalars(got, prefix):
    tolerance = golden.index()[CASE]["tolerance"]
    names = {k.removeprefix(prefix) for k in case() if k.startswith(prefix)}
    assert names <= got.keys()
    for name in names:
        want = case()[prefix + name]
        np.testing.assert_allclose(
            got[name], want, atol=tolerance["atol"], rtol=tolerance["rtol"], err_msg=name
        )


def check_stats(stats, prefix):
    """BatchNorm's running statistics, in the order of the layers."""
    got = discriminator().to_torch(discriminator().params, stats)
    names = [k.removeprefix(prefix) for k in case() if k.startswith(prefix)]
    assert len(names) == 6
    for name in names:
        np.testing.assert_allclose(got[name], case()[prefix + name], atol=2e-5, rtol=5e-4)


def with_weighted_images(got, terms, params, config):
    """The same for a loss of weighted images, which the release has and none of its configs uses.

    We have no such weights. They are of the images' likelihoods in the loss, though not in the
    adaptive weights, and both the loss and its gradient are linear in them: what a weight is above
    1 is added here, so that a golden row that was made with weights still tests all else in it.
    """

    def rest(params):
        posterior = terms.encode(params)
        z = posterior.mean + posterior.std * nhwc("eps")
        reconstruction = terms.decode(params, z)
        nll, _ = reconstruction_loss(
            nhwc("inputs"), reconstruction, terms.lpips(reconstruction), config
        )
        return ((case()["in.weights"].ravel() - 1) * nll).mean()

    loss, gradient = jax.value_and_grad(rest)(params)
    return dataclasses.replace(
        got,
        params=jax.tree.map(jnp.add, got.params, gradient),
        metrics=got.metrics | {"loss": got.metrics["loss"] + loss},
    )


@pytest.mark.parametrize("name", [n for n in rows() if rows()[n]["train_mode"]])
def test_both_players(name):
    row, data, images = rows()[name], case(), nhwc("inputs")
    config, stage = settings(row)
    params, projection = parameters()
    adversary = discriminator()
    targets = {"distmat_margin": stage.distmat_margin, "cos_margin": stage.cos_margin}
    terms = AutoencoderTerms(
        encode=encode,
        decode=decode,
        encoder_end=lambda gradient: gradient["w_enc"],
        decoder_end=lambda gradient: gradient["w_dec"],
        lpips=perceptual if config.perceptual_weight else None,
        discriminate=lambda x: discriminate(adversary.params, adversary.stats, x),
        alignment=(lambda p, z: vf_loss(project(p, z), nhwc("aux"), **targets, config=config))
        if row["z_and_aux"]
        else None,
    )
    players = functools.partial(
        autoencoder_gradients, terms, params, projection, images, nhwc("eps")
    )
    got = players(stage, config)
    if row["weights"]:
        got = with_weighted_images(got, terms, params, config)
    lpips_term = config.perceptual_weight and got.metrics["lpips"]
    logged = {
        "total_loss": got.metrics["loss"],
        "logvar": config.logvar,
        "kl_loss": got.metrics["kl"],
        "nll_loss": got.metrics["nll"],
        "rec_loss": got.metrics["l1"] + config.perceptual_weight * lpips_term,
        **got.metrics,
    }
    check_scalars(logged, f"out.{name}.log.")
    np.testing.assert_allclose(got.metrics["loss"], expected(name, "loss"), rtol=1e-3)
    np.testing.assert_allclose(
        got.reconstruction, golden.to_nhwc(data["out.rec"]), atol=1e-5, rtol=1e-3
    )
    gradients = got.params | (got.projection or {})
    # The release's own gradients of rec and z hold those of the adaptive weights' passes too: of
    # the likelihood, once a weight, of the adversary, and of the alignment.
    if f"out.{name}.grad.rec" in data:
        alone = players(stage.replace(generator_factor=jnp.float32(0.0)), config)
        nll = alone.params["rec"]
        adversary_alone = (gradients["rec"] - nll) / got.metrics["d_weight"]
        gradients["rec"] += (1 + config.adaptive_vf) * nll + adversary_alone
    if row["z_and_aux"] and config.adaptive_vf:
        gradients["z"] *= 1 + 1 / got.metrics["vf_weight"]
    wanted = [k.rpartition(".")[2] for k in data if k.startswith(f"out.{name}.grad.")]
    assert len(wanted) >= 3
    for key in wanted:
        want = expected(name, "grad", key)
        want = want.transpose(2, 3, 1, 0) if key.startswith("w_") else golden.to_nhwc(want)
        check_gradient(gradients[key], want)

    gradient, stats, metrics = discriminator_gradients(
        discriminate,
        adversary.params,
        got.stats,
        images,
        got.reconstruction,
        stage.discriminator_factor,
        config,
    )
    check_scalars(metrics, f"out.{name}.dlog.")
    np.testing.assert_allclose(metrics["disc_loss"], expected(name, "d_loss"), rtol=1e-3)
    if any(k.startswith(f"out.{name}.d_grad.") for k in data):
        gradient = adversary.to_torch(gradient, stats)
        for key in [k for k in data if k.startswith(f"out.{name}.d_grad.")]:
            check_gradient(gradient[key.removeprefix(f"out.{name}.d_grad.")], data[key])
        check_stats(got.stats, f"out.{name}.bn_after_g.")
        check_stats(stats, f"out.{name}.bn_after_d.")


def test_values_without_gradients():
    """In evaluation the adaptive weights are 0 and the discriminator's statistics stay."""
    name, images = "eval_no_grad", nhwc("inputs")
    config, stage = settings(rows()[name])
    params, projection = parameters()
    network = nnx.merge(discriminator().graphdef, discriminator().params, discriminator().stats)
    posterior = encode(params)
    z = posterior.mean + posterior.std * nhwc("eps")
    reconstruction = decode(params, z)
    nll, terms = reconstruction_loss(images, reconstruction, perceptual(reconstruction), config)
    kl = kl_loss(posterior.kl(), z.shape, config)
    margins = {"distmat_margin": stage.distmat_margin, "cos_margin": stage.cos_margin}
    vf = vf_loss(project(projection, z), nhwc("aux"), **margins, config=config)
    real, fake = (network(x, train=False) for x in (images, reconstruction))
    total = nll.mean() + config.kl_weight * kl
    check_scalars(
        {
            "total_loss": total,
            "logvar": config.logvar,
            "kl_loss": kl,
            "nll_loss": nll.mean(),
            "rec_loss": terms["l1"] + terms["lpips"],
            "g_loss": -fake.mean(),
            "vf_loss": vf,
            "d_weight": 0,
            "vf_weight": 0,
            "disc_factor": stage.generator_factor,
        },
        f"out.{name}.log.",
    )
    np.testing.assert_allclose(total, expected(name, "loss"), rtol=1e-3)
    loss = discriminator_loss(real, fake, config)
    logits = {"logits_real": real.mean(), "logits_fake": fake.mean()}
    check_scalars({"disc_loss": loss, **logits}, f"out.{name}.dlog.")
    check_stats(discriminator().stats, f"out.{name}.bn_after_d.")


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_discriminator_losses(kind):
    data, entry = golden.load("gan_losses"), golden.index()["gan_losses"]
    config = dataclasses.replace(vae_cases.RELEASED, disc_loss=kind)
    got = discriminator_loss(data["in.logits_real"], data["in.logits_fake"], config)
    golden.assert_close(got, data[f"out.{kind}"], entry["tolerance"])


def stages(**changes):
    values = {
        "start": (0,),
        "disc_start": (1,),
        "vf_weight": (0.1,),
        "distmat_margin": (0.25,),
        "cos_margin": (0.5,),
    }
    return StagesConfig(**values | changes)


@pytest.mark.parametrize(
    ("disc_start", "generator_from", "discriminator_from"),
    [(0, 0, 0), (1, 1, 0), (2, 1, 1), (5, 3, 2), (5001, 2501, 2500)],
)
def test_adversary_starts_in_the_releases_count(disc_start, generator_from, discriminator_from):
    """Of optimizer steps, the autoencoder's at 2k and the discriminator's at 2k + 1."""
    at = jax.vmap(functools.partial(stage_at, stages(disc_start=(disc_start,))))
    steps = jnp.arange(2600)
    np.testing.assert_array_equal(at(steps).generator_factor, steps >= generator_from)
    np.testing.assert_array_equal(at(steps).discriminator_factor, steps >= discriminator_from)


def test_adopt_weight():
    data = golden.load("gan_losses")
    got = [stage_at(stages(disc_start=(5,)), jnp.int32(k)).generator_factor for k in (0, 2, 3)]
    np.testing.assert_allclose(0.7 * np.asarray(got), data["out.adopt"][[0, 1, 3]], rtol=1e-6)


def test_stages_switch_at_their_steps():
    """disc_start counts anew in each, as each is a run of its own in the release."""
    three = stages(
        start=(0, 10, 14),
        disc_start=(5, 1, 0),
        vf_weight=(0.5, 0.1, 0.2),
        distmat_margin=(0.0, 0.0, 0.25),
        cos_margin=(0.0, 0.0, 0.5),
    )
    got = jax.vmap(functools.partial(stage_at, three))(jnp.asarray([0, 2, 3, 9, 10, 11, 13, 14]))
    np.testing.assert_array_equal(got.generator_factor, [0, 0, 1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(got.discriminator_factor, [0, 1, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(got.vf_weight, [0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.2])
    np.testing.assert_allclose(got.distmat_margin, [0, 0, 0, 0, 0, 0, 0, 0.25])
    np.testing.assert_allclose(got.cos_margin, [0, 0, 0, 0, 0, 0, 0, 0.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": (5,)}, r"stages.start is \(5,\); expected 0, then rising"),
        ({"start": (0, 9, 9)}, "expected 0, then rising"),
        ({"start": (0, 9)}, "stages.disc_start has 1 values for 2 stages"),
        ({"vf_weight": (-0.1,)}, "stages.vf_weight.*below 0"),
    ],
)
def test_stages_that_do_not_line_up_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        stages(**changes)


def test_alignment_of_identical_features_is_zero():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 5))
    got, gradient = jax.value_and_grad(
        lambda z: vf_loss(z, x, distmat_margin=0.0, cos_margin=0.0, config=vae_cases.RELEASED)
    )(3 * x)
    assert abs(got) < 1e-6
    chex.assert_tree_all_finite(gradient)


def test_alignment_at_zero_latents_has_finite_gradients():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 5))
    config = vae_cases.RELEASED
    gradient = jax.grad(lambda z: vf_loss(z, x, distmat_margin=0.0, cos_margin=0.0, config=config))(
        jnp.zeros_like(x)
    )
    chex.assert_tree_all_finite(gradient)


def test_other_grids_are_refused():
    x = jnp.zeros((1, 4, 4, 8))
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 8\) and features \(1, 2, 2, 8\)"):
        vf_loss(x, x[:, :2, :2], distmat_margin=0.0, cos_margin=0.0, config=vae_cases.RELEASED)


def test_terms_that_would_broadcast_are_refused():
    images, scores = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 1))
    with pytest.raises(AssertionError, match=r"\(2, 1\)"):
        reconstruction_loss(images, images, scores, vae_cases.RELEASED)
    with pytest.raises(AssertionError, match=r"\(1, 4, 4, 3\)"):
        reconstruction_loss(images, images[:1], None, vae_cases.RELEASED)
    with pytest.raises(AssertionError, match=r"\(2, 1\)"):
        kl_loss(scores, (2, 4, 4, 8), vae_cases.RELEASED)
