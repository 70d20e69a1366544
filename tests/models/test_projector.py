"""REPA's projectors against numpy."""

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.models.projector import Projector, ProjectorConfig

TOKENS = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)


def project(kind, hidden):
    """A projector's weights and what it makes of TOKENS."""
    projector = Projector(ProjectorConfig(4, 5, kind, hidden), rngs=nnx.Rngs(0))
    projected = jax.jit(lambda p, x: p(x))(projector, TOKENS)
    return nnx.to_pure_dict(nnx.state(projector, nnx.Param)), projected


def test_the_mlp_has_three_layers_with_silu_between():
    weights, projected = project("mlp", 7)
    x = TOKENS.astype(np.float64)
    for number in (1, 2, 3):
        layer = weights[f"fc{number}"]
        if number > 1:
            x = x / (1 + np.exp(-x))
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    assert [weights[f"fc{n}"]["kernel"].shape for n in (1, 2, 3)] == [(4, 7), (7, 7), (7, 5)]
    np.testing.assert_allclose(projected, x, atol=1e-5)


def test_the_convolution_sees_neighbors_and_zeros_around_the_grid():
    weights, projected = project("conv", 0)
    kernel, bias = (np.asarray(weights["conv"][name]) for name in ("kernel", "bias"))
    assert np.abs(kernel).max() < 36**-0.5 and np.abs(bias).max() > 0  # as PyTorch's begins
    padded = np.zeros((2, 5, 5, 4))
    padded[:, 1:4, 1:4] = TOKENS.reshape(2, 3, 3, 4)
    want = np.empty((2, 3, 3, 5))
    for row in range(3):
        for column in range(3):
            near = padded[:, row : row + 3, column : column + 3]
            want[:, row, column] = np.einsum("bhwc,hwcd->bd", near, kernel) + bias
    np.testing.assert_allclose(projected, want.reshape(2, 9, 5), atol=1e-5)
