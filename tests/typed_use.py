"""How the public names are used, for the type checker alone: `make lint` reads it, nothing runs it.

`assert_type` fails where a name has lost its type, since then it is Any.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lightningdit_jax as ldj


def sample(generator: str, tokenizer: str) -> None:
    """As in the README: what a path holds is for the reader to say."""
    dit: ldj.LightningDiT = ldj.load(generator)
    vae: ldj.VAVAE = ldj.load(tokenizer, dtype=jnp.bfloat16, use_ema=False, verbose=True)
    images = ldj.generate(dit, vae, labels=[207, 387], seed=0, num_steps=250, cfg_scale=6.7)
    assert_type(images, np.ndarray)
    labels = np.arange(10)
    ldj.generate(dit, vae, labels, weak=dit, batch_size=5, latent_stats=ldj.latent_stats(generator))
    ldj.generate(dit, vae, labels, mesh=jax.make_mesh((1,), ("data",)), latent_stats="none")


def call(dit: ldj.LightningDiT, vae: ldj.VAVAE, pictures: np.ndarray) -> None:
    """The modules by themselves."""
    posterior = vae.encode(ldj.to_model_range(pictures))
    assert_type(posterior, ldj.DiagonalGaussian)
    for drawn in (posterior.sample(jax.random.key(0)), posterior.mode(), posterior.mean):
        assert_type(drawn, jax.Array)
        assert_type(ldj.to_uint8(vae.decode(drawn)), jax.Array)
    assert_type(dit(drawn, jnp.zeros(1), jnp.zeros(1, int)), jax.Array)
    embeddings = dit.y_embedder(jnp.zeros(1, int))
    assert_type(ldj.velocity(dit, drawn, jnp.zeros(1), embeddings), jax.Array)
    ldj.save("generator", dit, step=100)
    assert_type(dit.latent_scaling, ldj.LatentScaling | None)
    assert_type((dit.config.num_classes, vae.config.embed_dim), tuple[int, int])
    ldj.LightningDiT(dit.config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    ldj.VAVAE(vae.config, dtype="bfloat16", rngs=nnx.Rngs(0))


def scale(path: str, stored: np.ndarray, sampled: jax.Array) -> None:
    """Statistics, on arrays of NumPy and of JAX."""
    scaling = ldj.latent_stats(path) or ldj.LatentScaling.of_arrays(np.zeros(4), np.ones(4))
    assert_type(scaling, ldj.LatentScaling)
    assert_type(scaling.normalize(stored), np.ndarray)
    assert_type(scaling.invert(sampled), jax.Array)
    assert_type(ldj.LatentScaling(multiplier=0.5).channels, int | None)


def publish(run: str) -> None:
    """To the hub, and as a folder."""
    assert_type(ldj.push_to_hub(run, "owner/name", private=True, license="mit"), str)
    ldj.save_for_hub(run, "folder", use_ema=False, overwrite=True)


assert_type(ldj.__version__, str)
