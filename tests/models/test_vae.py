"""VA-VAE against the release's outputs and against its own invariants."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.convert.convert import params_from_torch
from lightningdit_jax.models.pixels import to_model_range, to_uint8
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import (
    VAVAE,
    DiagonalGaussian,
    VAVAEConfig,
    _fan_in_uniform,
)
from tests import golden

TINY = VAVAEConfig(
    resolution=32,
    in_channels=3,
    ch=32,
    ch_mult=(2, 1),
    num_res_blocks=1,
    encoder_attn_resolutions=(16,),
    decoder_attn_resolutions=(16,),
    z_channels=4,
    embed_dim=4,
)
TOLERANCE = golden.index()["vae"]["tolerance"]


@functools.cache
def abstract(config, dtype=jnp.float32):
    return nnx.split(nnx.eval_shape(lambda: VAVAE(config, dtype=dtype, rngs=CountedRngs(0))))


def merged(config, params, dtype=jnp.float32):
    return nnx.merge(abstract(config, dtype)[0], params)


@functools.cache
def golden_params():
    config, params = params_from_torch("vavae", golden.load_weights("vae"))
    assert config == TINY
    return params


@functools.cache
def round_trip():
    """The golden case: posterior, features and images, all from one compilation."""
    case, params = golden.load("vae"), golden_params()
    eps = golden.to_nhwc(case["in.eps"])

    @jax.jit
    def run(params, images):
        vae = merged(TINY, params)
        posterior = vae.encode(images)
        sample = posterior.mean + posterior.std * eps
        return posterior, vae.encoder(images), sample, vae.decode(sample)

    return case, run(params, golden.to_nhwc(case["in.x"]))


def assert_golden(got, name):
    golden.assert_close(golden.to_nchw(got), golden.load("vae")[f"out.{name}"], TOLERANCE)


def test_encode():
    case, (posterior, features, sample, _) = round_trip()
    assert_golden(features, "encoder")
    assert_golden(posterior.mean, "mean")
    assert_golden(posterior.mode(), "mode")
    assert_golden(posterior.logvar, "logvar")
    assert_golden(posterior.std, "std")
    assert_golden(sample, "sample")
    golden.assert_close(posterior.kl(), case["out.kl"], TOLERANCE)
    golden.assert_close(posterior.nll(sample), case["out.nll"], TOLERANCE)


def test_decode():
    _, (_, _, _, images) = round_trip()
    assert images.dtype == jnp.float32
    assert_golden(images, "decode")


def test_intermediate_activations():
    case, vae = golden.load("vae"), merged(TINY, golden_params())

    @jax.jit
    def run(x):
        down = vae.encoder.down[0](vae.encoder.conv_in(x))
        middle = vae.encoder.mid.block_1(vae.encoder.down[1](down))
        posterior = vae.encode(x)
        latents = vae.decoder.conv_in(vae.post_quant_conv(posterior.mode()))
        return {
            "enc_down0_downsample": down,
            "enc_mid_attn_1": vae.encoder.mid.attn_1(middle),
            "dec_mid_attn_1": vae.decoder.mid.attn_1(vae.decoder.mid.block_1(latents)),
        }

    got = run(golden.to_nhwc(case["in.x"])[:1])
    assert {f"mid.{key}" for key in got} == {key for key in case if key.startswith("mid.")}
    for key, value in got.items():
        golden.assert_close(golden.to_nchw(value), case[f"mid.{key}"], TOLERANCE)


@pytest.mark.slow
def test_sides_that_are_not_square():
    case, vae = golden.load("vae"), merged(TINY, golden_params())

    @jax.jit
    def run(x):
        posterior = vae.encode(x)
        return posterior, vae.decode(posterior.mode())

    posterior, images = run(golden.to_nhwc(case["in.x_rect"]))
    moments = jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)
    assert_golden(moments, "moments_rect")  # no log variance of it reaches the clamp
    assert_golden(images, "decode_rect")


def test_decoder_without_attention_of_mar():
    absent = golden.index()["vae"]["config"]["marvae"]["keys_absent"]
    weights = {k: v for k, v in golden.load_weights("vae").items() if k not in absent}
    config, params = params_from_torch("vavae", weights)
    assert config == dataclasses.replace(TINY, decoder_attn_resolutions=())
    sample = round_trip()[1][2]
    assert_golden(jax.jit(merged(config, params).decode)(sample), "decode_marvae")


def test_diagonal_gaussian():
    case, entry = golden.load("diagonal_gaussian"), golden.index()["diagonal_gaussian"]
    posterior = DiagonalGaussian.from_moments(golden.to_nhwc(case["in.params"]))
    for name in ("logvar", "std", "var"):
        got = golden.to_nchw(getattr(posterior, name))
        golden.assert_close(got, case[f"out.{name}"], entry["tolerance"])
    golden.assert_close(posterior.kl(), case["out.kl"], entry["tolerance"])
    other = DiagonalGaussian.from_moments(golden.to_nhwc(case["in.params2"]))
    golden.assert_close(other.nll(other.mean + 0.3), case["out.nll2"], entry["tolerance"])


def test_samples_have_the_posterior_moments():
    mean, logvar = jnp.full((1, 200, 200, 1), 3.0), jnp.full((1, 200, 200, 1), math.log(0.25))
    posterior = DiagonalGaussian(mean, logvar)
    sample = np.asarray(posterior.sample(jax.random.key(0)))
    np.testing.assert_allclose(sample.mean(), 3.0, atol=5 * 0.5 / 200)
    np.testing.assert_allclose(sample.std(), 0.5, atol=5 * 0.5 / 200)
    # The expected negative log likelihood is the entropy, whose closed form is known.
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25) * 200**2
    np.testing.assert_allclose(posterior.nll(sample), [entropy], rtol=0.02)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_to_uint8_is_exact(transform):
    case = golden.load("decode_to_images")
    pixels = transform(to_uint8)(golden.to_nhwc(case["in.decoded"]))
    assert pixels.dtype == jnp.uint8
    np.testing.assert_array_equal(pixels, case["out.images"])


def test_to_uint8_equals_numpy_on_every_boundary():
    """Both neighbors of every value at which a pixel changes, fused into its producer by jit."""
    edges = ((np.arange(-3, 260) - 128) / 127.5).astype(np.float32)
    x = np.concatenate([np.nextafter(edges, np.float32(s)) for s in (-9, 9)] + [edges, -5 * edges])
    want = np.clip(np.float32(127.5) * x + np.float32(128), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(jax.jit(lambda x: to_uint8(x * 2))(x / 2), want)


def test_bfloat16_is_close_and_ends_in_float32():
    case, (posterior, _, sample, images) = round_trip()
    vae = merged(TINY, golden_params(), dtype=jnp.bfloat16)

    @jax.jit
    def run(x, z):
        return vae.encode(x), vae.decode(z)

    got, got_images = run(golden.to_nhwc(case["in.x"]), sample)
    for ours, exact in ((got.mean, posterior.mean), (got_images, images)):
        assert ours.dtype == jnp.float32
        error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
        assert 1e-4 < error < 0.05


@pytest.mark.parametrize("fan_in", [9 * 32, 64])
def test_initialization_is_that_of_torch(fan_in):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): kaiming_uniform with a = sqrt(5)."""
    draws = np.asarray(_fan_in_uniform(fan_in)(jax.random.key(0), (100, 100), jnp.float32))
    limit = math.sqrt(1 / fan_in)
    assert 0.99 * limit < np.abs(draws).max() <= limit
    np.testing.assert_allclose(draws.std(), limit / math.sqrt(3), rtol=0.02)


@pytest.mark.slow
def test_every_layer_is_initialized_by_its_fan_in():
    params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(VAVAE(TINY, rngs=nnx.Rngs(0)))))()
    for path, kernel in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            limit = math.sqrt(1 / math.prod(kernel.shape[:-1]))
            assert 0.8 * limit < np.abs(kernel).max() <= limit, name
        elif name.endswith("scale"):
            assert (np.asarray(kernel) == 1).all()


def test_convolutions_see_zeros_at_the_right_and_the_bottom_only():
    """Moving an image by f pixels moves its features by one, away from the borders."""
    conv = merged(TINY, golden_params()).encoder.down[0].downsample.conv
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 64)).astype(np.float32)
    kernel, bias = (np.asarray(p[...], np.float64) for p in (conv.kernel, conv.bias))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    want = np.einsum("bhwcij,ijcd->bhwd", patches, kernel) + bias
    np.testing.assert_allclose(conv(x), want, atol=1e-4)


@pytest.mark.slow
def test_config_properties_and_shapes_of_the_release():
    config = VAVAEConfig(
        resolution=256,
        in_channels=3,
        ch=128,
        ch_mult=(1, 1, 2, 2, 4),
        num_res_blocks=2,
        encoder_attn_resolutions=(16,),
        decoder_attn_resolutions=(16,),
        z_channels=32,
        embed_dim=32,
    )
    assert config.downsample_factor == 16

    def there_and_back(params, images):
        vae = merged(config, params)
        posterior = vae.encode(images)
        return posterior.mean, vae.decode(posterior.mode())

    images = jax.ShapeDtypeStruct((2, 256, 320, 3), jnp.float32)
    mean, out = jax.eval_shape(there_and_back, abstract(config)[1], images)
    assert mean.shape == (2, 16, 20, 32) and out.shape == images.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch": 48}, "ch is 48; expected a multiple of 32"),
        ({"num_groups": 12}, "ch is 32; expected a multiple of 12, .*num_groups"),
        ({"num_groups": 0}, "num_groups is 0; expected at least 1"),
        ({"activation": "rleu"}, "unknown activation 'rleu'; did you mean 'relu'"),
        ({"ch_mult": ()}, r"ch_mult is \(\)"),
        ({"ch_mult": (1, 0)}, r"ch_mult is \(1, 0\)"),
        ({"resolution": 33}, "resolution is 33; expected a multiple of 2"),
        ({"encoder_attn_resolutions": (8,)}, r"encoder_attn_resolutions is \(8,\).*\[32, 16\]"),
        ({"embed_dim": 0}, "embed_dim is 0; expected at least 1"),
    ],
)
def test_bad_architectures(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_inputs_that_do_not_fit_are_refused():
    vae = merged(TINY, golden_params())
    with pytest.raises(ValueError, match=r"images are 31 x 32; expected sides .* multiples of 2"):
        vae.encode(jnp.zeros((1, 31, 32, 3)))
    with pytest.raises(ValueError, match=r"images have shape \(1, 3, 32, 32\)"):
        vae.encode(jnp.zeros((1, 3, 32, 32)))
    with pytest.raises(ValueError, match=r"latents have shape \(1, 4, 4, 5\); .* w, 4\]"):
        vae.decode(jnp.zeros((1, 4, 4, 5)))


def test_pixels_there_and_back():
    """Every value of a byte, from public names."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    seen = ldj.to_model_range(pixels)
    assert seen.dtype == np.float32 and (seen.min(), seen.max()) == (-1, 1)
    np.testing.assert_array_equal(ldj.to_uint8(seen), pixels)
    assert ldj.to_model_range is to_model_range and ldj.to_uint8 is to_uint8


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"float32; expected uint8"):
        to_model_range(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"uint8; expected floats"):
        to_uint8(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(FloatingPointError, match="no pixels"):
        to_uint8(np.array([0.0, np.nan], np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_pixels_are_no_input_of_the_encoder(dtype):
    """They used to give latents of nonsense."""
    model = nnx.eval_shape(lambda: VAVAE(TINY, rngs=CountedRngs(0)))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), dtype)
    with pytest.raises(ValueError, match=r"expected floats in \[-1, 1\], which .*to_model_range"):
        jax.eval_shape(lambda x: model.encode(x).mean, images)


@pytest.mark.slow
def test_the_nominal_resolution_only_says_where_attention_stands():
    """Weights of one side take images of twice the side as those that are described so do."""
    params, side = golden_params(), 2 * TINY.resolution
    doubled = dataclasses.replace(
        TINY,
        resolution=side,
        encoder_attn_resolutions=(side // 2,),
        decoder_attn_resolutions=(side // 2,),
    )
    images = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)

    def there_and_back(config):
        @jax.jit
        def run(params):
            vae = merged(config, params)
            posterior = vae.encode(images)
            return posterior.mean, posterior.std, vae.decode(posterior.mean)

        return run(params)

    results = there_and_back(TINY), there_and_back(doubled)
    assert results[0][0].shape == (1, side // 2, side // 2, 4)
    jax.tree.map(np.testing.assert_array_equal, *results)
