import numpy as np
import pytest

from lightningdit_jax.evaluation import spatial_structure
from lightningdit_jax.evaluation.spatial_structure import local_distant_similarity

RNG = np.random.default_rng(0)


def brute_force(latents, reach):
    near, distant = [], []
    for latent in latents:
        places = [(r, c) for r in range(latent.shape[0]) for c in range(latent.shape[1])]
        for a in places:
            for b in places:
                steps = abs(a[0] - b[0]) + abs(a[1] - b[1])
                x, y = latent[a], latent[b]
                cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                if steps:
                    (near if steps < reach else distant).append(cosine)
    return np.mean(near) - np.mean(distant)


@pytest.mark.parametrize(("shape", "reach"), [((2, 2), 2), ((4, 4), 2), ((3, 6), 3)])
def test_it_is_the_mean_over_pairs(shape, reach, monkeypatch):
    monkeypatch.setattr(spatial_structure, "BLOCK", 2)
    latents = RNG.normal(0.2, 1, (5, *shape, 3)).cumsum(1).astype(np.float32)
    want = brute_force(latents.astype(np.float64), reach)
    assert local_distant_similarity(latents) == pytest.approx(want, abs=1e-6)


def test_noise_has_none_and_halves_have_some():
    assert abs(local_distant_similarity(RNG.normal(size=(400, 6, 6, 8)))) < 0.01
    halves = np.ones((1, 4, 4, 1)) * np.array([1, 1, -1, -1])[:, None, None]
    # Of 48 near pairs 8 cross the middle; of 192 distant ones 120 do.
    assert local_distant_similarity(halves) == pytest.approx((40 - 8) / 48 - (72 - 120) / 192)


def test_one_position_is_refused():
    with pytest.raises(ValueError, match="latents are 1x4; structure takes 2x2"):
        local_distant_similarity(np.ones((3, 1, 4, 2)))
