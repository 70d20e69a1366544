"""LPIPS against the reference's values and gradients."""

import functools

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.rngs import CountedRngs
from tests import golden

NAME = "lpips_tiny"


@functools.cache
def model():
    config, params = params_from_torch("lpips", golden.load_weights(NAME))
    assert config.channels == tuple(golden.index()[NAME]["config"]["channels"])
    return nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: LPIPS(config, rngs=CountedRngs(0)))), params
    )


@pytest.fixture(scope="module")
def data():
    return golden.load(NAME)


TOLERANCE = golden.index()[NAME]["tolerance"]


@functools.cache
def value_and_gradient():
    """Sum of the distances and its gradient in the second images, compiled once."""
    lpips = model()
    return jax.jit(jax.value_and_grad(lambda y, x: lpips(x, y).sum()))


def test_features_layers_and_value(data):
    x, y = golden.to_nhwc(data["in.input"]), golden.to_nhwc(data["in.target"])
    for stage, feature in enumerate(model().features(x[:1])):
        golden.assert_close(golden.to_nchw(feature), data[f"mid.feat{stage}"], TOLERANCE)
    layers = np.asarray(model().distances(x, y))
    for stage, layer in enumerate(layers):
        golden.assert_close(layer, data[f"mid.layer{stage}"][:, 0, 0, 0], TOLERANCE)
    golden.assert_close(layers.sum(0), data["out.value"][:, 0, 0, 0], TOLERANCE)


def test_gradient(data):
    x, y = golden.to_nhwc(data["in.input"]), golden.to_nhwc(data["in.target"])
    _, gradient = value_and_gradient()(y, x)
    golden.assert_close(golden.to_nchw(gradient), data["out.grad_target"], TOLERANCE)


def test_equal_images_have_distance_zero_and_a_finite_gradient(data):
    x = golden.to_nhwc(data["in.input"])
    np.testing.assert_array_equal(model()(x, x), data["out.value_same"][:, 0, 0, 0])
    value, gradient = value_and_gradient()(x, x)
    assert abs(value) <= TOLERANCE["atol"]  # compilers may round the two sides differently
    chex.assert_tree_all_finite(gradient)


def test_bad_images_and_channels_are_named():
    with pytest.raises(ValueError, match="expected the same"):
        model()(np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 31, 3)))
    with pytest.raises(ValueError, match="15 x 32; expected sides of at least 16"):
        model()(np.zeros((1, 15, 32, 3)), np.zeros((1, 15, 32, 3)))
    with pytest.raises(ValueError, match="expected 5, one a stage"):
        LPIPSConfig((64, 128))
