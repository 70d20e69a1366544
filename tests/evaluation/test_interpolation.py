import numpy as np
import pytest

from lightningdit_jax.evaluation.interpolation import drawn_neighbors, spherical_midpoint

RNG = np.random.default_rng(0)


def slerp(a, b, t):
    """Shoemake 1985, of whole latents and with the weights of their directions."""
    angle = np.arccos(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def test_the_midpoint_is_that_of_spherical_interpolation():
    a, b = RNG.normal(1, 1, (2, 5, 4, 3, 2)).astype(np.float32)
    want = [slerp(x, y, 0.5) for x, y in zip(a, b)]
    np.testing.assert_allclose(spherical_midpoint(a, b), want, rtol=1e-5, atol=1e-6)


def test_midpoints_of_right_angles_copies_and_opposites():
    a = np.array([[3.0, 0], [1, 2], [0, 5]])
    b = np.array([[0, 3.0], [1, 2], [0, -5]])
    got = spherical_midpoint(a, b)
    assert np.linalg.norm(got[0]) == pytest.approx(3) and got[0, 0] == got[0, 1]
    np.testing.assert_allclose(got[1:], [[1, 2], [0, 0]], atol=1e-6)


def test_neighbors_are_drawn_by_a_softmax_of_their_mean_squared_distances():
    steps = np.array([0.0, 1.0, 1.5])
    latents = np.zeros((1, 2, 2, 1), np.float32)
    neighbors = np.broadcast_to(steps[None, :, None, None, None], (1, 3, 2, 2, 1))
    uniform = (np.arange(20_000) + 0.5) / 20_000
    many = (np.repeat(x, 20_000, axis=0) for x in (latents, neighbors))
    drawn = drawn_neighbors(*many, uniform)[:, 0, 0, 0]
    weights = np.exp(-(steps**2))
    got = [np.mean(drawn == step) for step in steps]
    np.testing.assert_allclose(got, weights / weights.sum(), atol=1e-4)


def test_the_only_neighbor_is_taken():
    latents, neighbors = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 1, 3))
    drawn = drawn_neighbors(latents, neighbors, np.array([0.0, 0.3, 0.7, 0.999]))
    np.testing.assert_array_equal(drawn, neighbors[:, 0])
