"""How latents are held to the features of a vision foundation model: the release's way, and others.

A row says what its loss looks at; what the losses do to the weights is put together in
vae_gradients. Images are NHWC. The pooled losses are those of Ramanana Rahary et al. 2026, arXiv
2609.39657, sec. 2.
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from lightningdit_jax.config import Config
from lightningdit_jax.config_vae_loss import VAELossConfig
from lightningdit_jax.training.vae_loss import Stage

UNIT_EPS = 1e-12  # smallest norm that a vector is divided by, as in PyTorch's normalize
MIN_HSIC = 1e-6  # smallest of a kernel with itself: the unbiased estimate can fall below 0

Project = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Balance:
    """What an adaptive weight sets the norm of the alignment's gradient against.

    whole_loss: all other terms as they are weighted, or the likelihood alone. eps is added to the
    alignment's norm, which is divided by; the ratio is at most `largest`.
    """

    whole_loss: bool
    eps: float
    largest: float


LIKELIHOOD = Balance(whole_loss=False, eps=1e-4, largest=1e8)
WHOLE_LOSS = Balance(whole_loss=True, eps=1e-8, largest=1e12)  # of the authors' code and configs


@dataclasses.dataclass(frozen=True)
class AlignmentLoss:
    """A way to align.

    loss(latents, features, project, stage) -> scalar: [B, h, w, d], [B, h, w, D], the learned
    linear projection where the row `projects`, else None. of_mean: the latents are the posterior's
    means and not samples, by which the encoder could meet the target with a larger variance.
    from_latents: the projection is of latents and not of features. min_images: of a batch, for a
    loss that compares its images with each other; 1 where each is by itself.
    """

    loss: Callable[..., jax.Array]
    projects: bool
    of_mean: bool
    from_latents: bool = True
    min_images: int = 1
    balance: Balance = LIKELIHOOD


def alignment_loss_of(config: VAELossConfig) -> AlignmentLoss:
    """The row that config.vae_loss.alignment_loss names."""
    return _ROWS[config.alignment_loss](config)


def check_batch(config: Config) -> None:
    """Raises ValueError for batches too small for what the alignment compares."""
    least, size = alignment_loss_of(config.vae_loss).min_images, config.train.batch_size
    if size < least:
        raise ValueError(
            f"config.train.batch_size is {size}, but config.vae_loss.alignment_loss "
            f"'{config.vae_loss.alignment_loss}' compares the images of a batch with each other; "
            f"expected at least {least}"
        )


def vf_loss(
    z: jax.Array,
    features: jax.Array,
    *,
    distmat_margin: jax.Array | float,
    cos_margin: jax.Array | float,
    config: VAELossConfig,
) -> jax.Array:
    """VF loss between latents and features of a foundation model, of one width. Scalar.

    z, features: [B, h, w, C]. Marginal distance-matrix similarity over all pairs of positions of an
    image and marginal cosine similarity over positions (Yao et al. 2025, eq. 5 to 7).
    Raises ValueError if the shapes differ.
    """
    if z.shape != features.shape:
        raise ValueError(
            f"latents have shape {z.shape} and features {features.shape}; expected the same grid "
            "and, after the projection, the same width"
        )
    z, f = (_unit(x.reshape(x.shape[0], -1, x.shape[-1])) for x in (z, features.astype(z.dtype)))
    distance = jnp.abs(_similarities(z) - _similarities(f))
    distmat = jax.nn.relu(distance - distmat_margin).mean()
    cosine = jax.nn.relu(1.0 - cos_margin - (z * f).sum(axis=-1)).mean()
    return config.distmat_weight * distmat + config.cos_weight * cosine


def pool_align_loss(z: jax.Array, features: jax.Array, project: Project) -> jax.Array:
    """Cosine distance of an image's mean latent, projected, and its mean feature. Scalar, 0 to 2.

    z: [B, h, w, d]; features: [B, h', w', D] on any grid; project: [B, d] -> [B, D]. A linear
    projection of the mean is the mean of projections. arXiv 2609.39657, sec. 2, Pool-Align.
    """
    pooled, target = project(z.mean(axis=(1, 2))), features.astype(z.dtype).mean(axis=(1, 2))
    chex.assert_equal_shape([pooled, target])
    return (1.0 - (_unit(pooled) * _unit(target)).sum(axis=-1)).mean()


def cka_loss(z: jax.Array, features: jax.Array) -> jax.Array:
    """1 - CKA of the similarities among the images of a batch. Scalar, 0 to 2.

    z: [B, h, w, d]; features: [B, h', w', D], of any grid and width, B at least 4. Linear CKA of
    kernels without their diagonals, by unbiased HSIC: arXiv 2609.39657, app. A.3, eq. 1; Kornblith
    et al. 2019; Song et al. 2012. Turning all latents, or scaling one, changes nothing.
    """
    # HSIC sees nothing of what the images have in common. Taken off the images before and not off
    # their cosines, which early in training are all near 1, it takes no digits with it.
    s, t = (
        _similarities(p - p.mean(axis=0))
        for p in (_pooled(z), jax.lax.stop_gradient(_pooled(features.astype(z.dtype))))
    )
    norm = jnp.sqrt(jnp.maximum(_hsic(s, s), MIN_HSIC) * jnp.maximum(_hsic(t, t), MIN_HSIC))
    return 1.0 - jnp.clip(_hsic(s, t) / norm, -1.0, 1.0)


def soft_kl_loss(z: jax.Array, features: jax.Array, temperature: float) -> jax.Array:
    """How far the images near an image by latents are from those near it by features. Scalar.

    z: [B, h, w, d]; features: [B, h', w', D], of any grid and width, B at least 3. Mean over images
    of KL(p_t || p_s), where p is the softmax over the other images of similarities / temperature.
    arXiv 2609.39657, sec. 2, Soft-KL.
    """
    s, t = (
        _similarities(p)
        for p in (_pooled(z), jax.lax.stop_gradient(_pooled(features.astype(z.dtype))))
    )
    others = ~jnp.eye(len(s), dtype=bool)
    log_s, log_t = (
        jax.nn.log_softmax(jnp.where(others, k / temperature, -jnp.inf), axis=-1) for k in (s, t)
    )
    # At an image itself both are -inf, and their difference would be none.
    gap = jnp.where(others, log_t, 0.0) - jnp.where(others, log_s, 0.0)
    return (jnp.exp(log_t) * gap).sum(axis=-1).mean()


def _vf(config: VAELossConfig) -> AlignmentLoss:
    def loss(z: jax.Array, features: jax.Array, project: Project, stage: Stage) -> jax.Array:
        pair = (project(z), features) if config.reverse_proj else (z, project(features))
        margins = {"distmat_margin": stage.distmat_margin, "cos_margin": stage.cos_margin}
        return vf_loss(*pair, **margins, config=config)

    return AlignmentLoss(loss, projects=True, of_mean=False, from_latents=config.reverse_proj)


def _pool_align(config: VAELossConfig) -> AlignmentLoss:
    def loss(z: jax.Array, features: jax.Array, project: Project, stage: Stage) -> jax.Array:
        return pool_align_loss(z, features, project)

    return AlignmentLoss(loss, projects=True, of_mean=True)


def _cka(config: VAELossConfig) -> AlignmentLoss:
    def loss(z: jax.Array, features: jax.Array, project: None, stage: Stage) -> jax.Array:
        return cka_loss(z, features)

    return AlignmentLoss(loss, projects=False, of_mean=True, min_images=4, balance=WHOLE_LOSS)


def _soft_kl(config: VAELossConfig) -> AlignmentLoss:
    temperature = config.soft_kl_temperature

    def loss(z: jax.Array, features: jax.Array, project: None, stage: Stage) -> jax.Array:
        return soft_kl_loss(z, features, temperature)

    return AlignmentLoss(loss, projects=False, of_mean=True, min_images=3, balance=WHOLE_LOSS)


_ROWS = {"vf": _vf, "pool_align": _pool_align, "cka": _cka, "soft_kl": _soft_kl}


def _unit(x: jax.Array) -> jax.Array:
    # Clamping before the root keeps the gradient finite where x is exactly 0.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), UNIT_EPS**2))


def _similarities(x: jax.Array) -> jax.Array:
    """Products of all pairs of vectors, cosines where they are unit. [..., N, C] -> [..., N, N]."""
    return jnp.einsum("...ic,...jc->...ij", x, x, precision=jax.lax.Precision.HIGHEST)


def _pooled(x: jax.Array) -> jax.Array:
    """Direction of the mean of an image's unit vectors. [B, h, w, C] -> [B, C]."""
    return _unit(_unit(x).mean(axis=(1, 2)))


def _hsic(k: jax.Array, m: jax.Array) -> jax.Array:
    """Unbiased estimate of the dependence of two kernels [B, B], their diagonals aside. Scalar."""
    n = len(k)
    k, m = (jnp.where(jnp.eye(n, dtype=bool), 0.0, x) for x in (k, m))
    k_of, m_of = k.sum(axis=1), m.sum(axis=1)
    total = (k * m).sum() + k_of.sum() * m_of.sum() / ((n - 1) * (n - 2))
    return (total - 2.0 / (n - 2) * (k_of * m_of).sum()) / (n * (n - 3))
