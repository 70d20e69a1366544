"""Inception against torch-fidelity's outputs on weights drawn from names.

The outputs were made with torch-fidelity (commit 5e211a9, torch 2.13.0): its network with the
weights of `draw_weights`, its TensorFlow-like resize, and the output of Mixed_6d.branch1x1.
"""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch, torch_shapes
from lightningdit_jax.models.inception import Inception, InceptionConfig, resize_tf1
from lightningdit_jax.models.rngs import CountedRngs
from tests import golden
from tests.models.inception_weights import draw_images, draw_weights

FOLDER = golden.GOLDEN.parent / "inception"
# Float32 sums in another order; 4e-6 is the most that was seen, on features of up to 2.6.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def want():
    return np.load(FOLDER / "torch_fidelity.npz")


@pytest.fixture(scope="module")
def shapes():
    return {k: tuple(v) for k, v in json.loads((FOLDER / "shapes.json").read_text()).items()}


def test_features(want, shapes):
    weights = draw_weights(shapes) | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    config, params = params_from_torch("inception", weights)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Inception(config, rngs=CountedRngs(0))))
    got = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, draw_images())
    golden.assert_close(got.pool, want["pool"], TOLERANCE)
    golden.assert_close(got.spatial, want["spatial"], TOLERANCE)
    golden.assert_close(got.logits, want["logits"], TOLERANCE)


def test_every_tensor_is_covered(shapes):
    assert torch_shapes("inception", InceptionConfig()) == shapes


def test_resize(want):
    got = resize_tf1(draw_images().astype(np.float32), 299)[:, ::23, ::23]
    np.testing.assert_allclose(got, want["resized"], rtol=0, atol=1e-4)


def test_resize_keeps_an_image_of_its_size_and_interpolates_a_ramp():
    ramp = np.arange(4, dtype=np.float32)[None, None, :, None].repeat(4, 1)
    np.testing.assert_array_equal(resize_tf1(ramp, 4), ramp)
    wide = np.asarray(resize_tf1(ramp, 8))[0, 0, :, 0]
    np.testing.assert_allclose(wide, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])


def test_other_types_and_shapes_are_refused():
    with pytest.raises(ValueError, match="num_classes is 0; expected at least 1"):
        InceptionConfig(num_classes=0)
    with pytest.raises(ValueError, match="bfloat16; metrics are defined in float32"):
        Inception(InceptionConfig(), dtype="bfloat16", rngs=nnx.Rngs(0))
    network = nnx.eval_shape(lambda: Inception(InceptionConfig(), rngs=CountedRngs(0)))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 40, 48\); expected \[B, H, W, 3\]"):
        network(np.zeros((2, 3, 40, 48), np.uint8))
