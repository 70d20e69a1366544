"""How evenly latents fill their space, as the paper measures it. Yao et al. 2025, sec. 5.4 and app.

Latent vectors are laid out in the plane by t-SNE; a Gaussian kernel estimate gives the density at
each of them.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Uniformity:
    """density_cv: deviation of the density over its mean, 0 where it is even. normalized_entropy:
    of the densities as shares, over the most it can be, 1 where they are even. gini: of the
    densities, 0 where they are even.
    """

    density_cv: float
    normalized_entropy: float
    gini: float


def tsne_layout(latents: np.ndarray, seed: int) -> np.ndarray:
    """Latent vectors in the plane. [N, C] -> [N, 2]. scikit-learn's t-SNE, perplexity 30."""
    from sklearn.manifold import TSNE

    return TSNE(n_components=2, perplexity=30, random_state=seed).fit_transform(latents)


def kernel_density(points: np.ndarray) -> np.ndarray:
    """Density at each point of a set. [N, 2] -> [N]. Gaussian kernels, Scott's bandwidth."""
    from scipy.stats import gaussian_kde

    return gaussian_kde(points.T)(points.T)


def uniformity(density: np.ndarray) -> Uniformity:
    """Measures of the density at N points, as the release computes them. [N]."""
    count = len(density)
    shares = density / density.sum()
    entropy = -(shares * np.log2(shares + 1e-10)).sum()
    ranks = np.arange(1, count + 1)
    return Uniformity(
        density_cv=float(density.std() / density.mean()),
        normalized_entropy=float(entropy / np.log2(count)),
        gini=float(((2 * ranks - count - 1) * np.sort(shares)).sum() / count),
    )
