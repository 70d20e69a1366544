"""From one noise to another and from one class to another, in one picture.

    python examples/interpolate.py --generator=outputs/demo/generator \
        --tokenizer=outputs/demo/tokenizer --output=outputs/examples --labels 3 8

To the right the noise turns from that of sample 0 into that of sample 1, downwards the embedding of
the first class becomes that of the second: OUTPUT/interpolate.png. The corners are the samples 0
and 1 of the two classes that ldj.generate draws.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

import lightningdit_jax as ldj
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.flow.guidance import guide
from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.solver import shifted_grid
from lightningdit_jax.inference.pictures import image_grid, save_png


def slerp(a: jax.Array, b: jax.Array, weights: jax.Array) -> jax.Array:
    """Along the great circle from a to b, [...], at weights [N] from 0 to 1 -> [N, ...].

    Between two normal draws a straight line goes through points far too near the origin.
    """
    angle = jnp.arccos(jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))
    weights = weights.reshape(-1, *[1] * a.ndim)
    return (jnp.sin((1 - weights) * angle) * a + jnp.sin(weights * angle) * b) / jnp.sin(angle)


@functools.partial(jax.jit, static_argnames="num_steps")
def draw(
    dit: ldj.LightningDiT,
    vae: ldj.VAVAE,
    noise: jax.Array,
    classes: jax.Array,
    cfg_scale: float,
    num_steps: int,
) -> jax.Array:
    """Images of noise [N, h, w, C] and embeddings of classes [N, D] -> uint8 [N, H, W, 3]."""
    null = dit.y_embedder(jnp.asarray(dit.config.num_classes))
    model = functools.partial(ldj.velocity, dit)
    velocity_fn = guide(model, classes, null, cfg_scale=cfg_scale, cfg_channels=None)
    latents = integrate("euler", velocity_fn, noise, shifted_grid(dit.flow, num_steps, 0.0))
    return ldj.to_uint8(vae.decode(dit.latent_scaling.invert(latents)))


def main(argv: list[str] | None = None) -> np.ndarray:
    """Draws and writes. -> images uint8 [size, size, H, W, 3]."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True, help="checkpoint or workdir of a generator")
    parser.add_argument("--tokenizer", required=True, help="that of its latents")
    parser.add_argument("--output", default="outputs/examples", help="folder of the picture")
    parser.add_argument("--labels", type=int, nargs=2, default=[3, 8])
    parser.add_argument("--size", type=int, default=8, help="pictures a side")
    parser.add_argument("--cfg-scale", type=float, default=2.0)
    parser.add_argument("--num-steps", type=int, default=32)
    options = parser.parse_args(argv)

    dit: ldj.LightningDiT = ldj.load(options.generator)
    vae: ldj.VAVAE = ldj.load(options.tokenizer)
    side, channels = dit.config.input_size, dit.config.in_channels
    noise = draw_samples(jax.random.normal, 0, jnp.arange(2), (side, side, channels))
    first, second = dit.y_embedder(jnp.array(options.labels))
    weights = jnp.linspace(0, 1, options.size)
    columns = slerp(noise[0], noise[1], weights)
    rows = [
        draw(
            dit,
            vae,
            columns,
            jnp.tile((1 - weight) * first + weight * second, (options.size, 1)),
            options.cfg_scale,
            options.num_steps,
        )
        for weight in weights
    ]
    save_png(f"{options.output}/interpolate.png", image_grid(np.concatenate(rows), options.size))
    return np.stack(rows)


if __name__ == "__main__":
    main()
