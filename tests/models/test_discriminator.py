"""PatchGAN against the reference: logits, gradients, running statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch, params_to_torch
from lightningdit_jax.models.discriminator import BatchNorm, Discriminator, DiscriminatorConfig
from tests import golden

CASES = ["discriminator", "discriminator_actnorm"]


@functools.cache
def converted(name):
    given = golden.index()[name]["config"]
    config, state = params_from_torch("discriminator", golden.load_weights(name))
    norm = "actnorm" if given["use_actnorm"] else "batchnorm"
    assert config == DiscriminatorConfig(3, given["ndf"], given["n_layers"], norm)
    return config, state


def parts(name):
    """(graphdef, params, statistics) of a fresh module with the case's weights."""
    config, state = converted(name)
    module = Discriminator(config, rngs=nnx.Rngs(0))
    nnx.update(module, state)
    return nnx.split(module, nnx.Param, nnx.BatchStat)


@functools.cache
def step(name):
    """Loss of the hinge on real images, with logits and new statistics."""
    graphdef = parts(name)[0]

    @jax.jit
    def run(params, stats, x):
        def loss(params, x):
            module = nnx.merge(graphdef, params, stats, copy=True)
            logits = module(x, train=True)
            return nnx.relu(1 - logits).mean(), (logits, nnx.state(module, nnx.BatchStat))

        (_, aux), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return *aux, *gradients

    return run


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name):
    data, tolerance = golden.load(name), golden.index()[name]["tolerance"]
    graphdef, params, stats = parts(name)
    x = golden.to_nhwc(data["in.x"])
    logits = nnx.merge(graphdef, params, stats)(x, train=False)
    golden.assert_close(golden.to_nchw(logits), data["out.logits_eval"], tolerance)
    logits, _, grad_params, grad_x = step(name)(params, stats, x)
    golden.assert_close(golden.to_nchw(logits), data["out.logits_train"], tolerance)
    golden.assert_close(golden.to_nchw(grad_x), data["out.grad_x"], tolerance)
    gradients = nnx.to_pure_dict(nnx.merge_state(grad_params, stats))
    tensors = params_to_torch("discriminator", converted(name)[0], gradients)
    for key in (k for k in data if k.startswith("out.grad.")):
        golden.assert_close(tensors[key.removeprefix("out.grad.")], data[key], tolerance)


def test_running_statistics_after_two_passes():
    name = "discriminator"
    data, tolerance = golden.load(name), golden.index()[name]["tolerance"]
    _, params, stats = parts(name)
    x = golden.to_nhwc(data["in.x"])
    for images in (x, 0.5 * x):
        stats = step(name)(params, stats, images)[1]
    state = nnx.to_pure_dict(nnx.merge_state(params, stats))
    tensors = params_to_torch(name, converted(name)[0], state)
    for key in (k for k in data if k.startswith("out.after2.")):
        golden.assert_close(tensors[key.removeprefix("out.after2.")], data[key], tolerance)


def test_groups_are_normalized_each_by_itself():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) * jnp.arange(1, 5)[:, None, None, None]
    whole, grouped = (BatchNorm(2, stat_groups=g, rngs=nnx.Rngs(0)) for g in (1, 2))
    halves, means, variances = [], [], []
    for part in (x[:2], x[2:]):
        alone = BatchNorm(2, stat_groups=1, rngs=nnx.Rngs(0))
        halves.append(alone(part, train=True))
        means.append(alone.mean[...])
        variances.append(alone.var[...])
    got = grouped(x, train=True)
    np.testing.assert_allclose(got, np.concatenate(halves), atol=1e-6)
    np.testing.assert_allclose(grouped.mean[...], np.mean(means, 0), atol=1e-6)
    np.testing.assert_allclose(grouped.var[...], np.mean(variances, 0), atol=1e-6)
    assert not np.allclose(whole(x, train=True), got, atol=1e-2)
    with pytest.raises(ValueError, match="4 images cannot be normalized in 3 groups"):
        BatchNorm(2, stat_groups=3, rngs=nnx.Rngs(0))(x, train=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [((3, 0, 3, "batchnorm"), "ndf is 0"), ((3, 64, 3, "batch"), "unknown norm 'batch'")],
)
def test_bad_configs_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(*fields)
