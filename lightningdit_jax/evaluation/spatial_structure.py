"""Whether what is near in an image is near in its latent, too."""

import numpy as np

BLOCK = 256  # latents whose similarities are held at once: 67 MB of 16x16


def local_distant_similarity(latents: np.ndarray) -> float:
    """Mean cosine similarity of near positions of a latent, less that of distant ones.

    [N, h, w, d] -> a number of -2 to 2: 0 where a place says nothing of its surroundings. LDS of
    Singh et al. 2025, arXiv 2512.10794, there of a vision model's tokens. Near are positions less
    than half the longer side apart, distant all others, by the steps along rows and columns between
    them; of a small latent, neighbors and all others. Raises ValueError for fewer than 2x2.
    """
    height, width, dim = latents.shape[1:]
    if min(height, width) < 2:
        raise ValueError(f"latents are {height}x{width}; structure takes 2x2 at least")
    places = np.indices((height, width)).reshape(2, -1).T
    steps = np.abs(places[:, None] - places).sum(-1)
    reach = max(max(height, width) / 2, 2)
    near, distant = (steps > 0) & (steps < reach), steps >= reach
    sums = np.zeros(2)
    for start in range(0, len(latents), BLOCK):
        block = np.asarray(latents[start : start + BLOCK], np.float32)
        tokens = block.reshape(len(block), len(places), dim)
        lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
        units = tokens / np.where(lengths > 0, lengths, 1)
        similarity = (units @ units.transpose(0, 2, 1)).sum(0, dtype=np.float64)
        sums += [similarity[near].mean(), similarity[distant].mean()]
    return float((sums[0] - sums[1]) / len(latents))
