"""Gives images another class: back along the flow to their noise, and forward with another label.

    python examples/edit_by_inversion.py --generator=outputs/demo/generator \
        --tokenizer=outputs/demo/tokenizer --output=outputs/examples --label=8

Images become latents, and the flow's equation, solved from data to noise with their own labels,
gives the noise that they come from. From there it leads back to the image, and with another label
to one that keeps what the label does not decide: OUTPUT/edit.png has originals, the round trip and
the edit, one below another. The terminal has the error of the round trip, which falls with
--num-steps. Of held-out digits, or of --images=FOLDER with one folder per class.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import lightningdit_jax as ldj
from lightningdit_jax.data.images import center_crop_adm
from lightningdit_jax.data.sources import open_images
from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.solver import shifted_grid
from lightningdit_jax.inference.pictures import image_grid, save_png


@jax.jit
def encode(dit: ldj.LightningDiT, vae: ldj.VAVAE, images: jax.Array) -> jax.Array:
    """Images uint8 [N, H, W, 3] -> the generator's latents [N, h, w, C]."""
    stored = vae.encode(ldj.to_model_range(images)).mode().transpose(0, 3, 1, 2)
    return dit.latent_scaling.normalize(stored)  # of [N, C, h, w], as latents are stored


@jax.jit
def decode(dit: ldj.LightningDiT, vae: ldj.VAVAE, latents: jax.Array) -> jax.Array:
    """The inverse, as far as the tokenizer goes."""
    return ldj.to_uint8(vae.decode(dit.latent_scaling.invert(latents)))


@jax.jit
def solve(dit: ldj.LightningDiT, x: jax.Array, labels: jax.Array, grid: jax.Array) -> jax.Array:
    """The state at the end of the grid of times of the flow that is x [N, h, w, C] at its start."""

    def velocity_fn(x: jax.Array, t: jax.Array) -> jax.Array:
        return ldj.velocity(dit, x, jnp.full(len(x), t), labels)

    return integrate("heun2", velocity_fn, x, grid)


def main(argv: list[str] | None = None) -> tuple[float, np.ndarray]:
    """Edits and writes. -> largest error of the round trip in latents; images [3 N, H, W, 3]."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True, help="checkpoint or workdir of a generator")
    parser.add_argument("--tokenizer", required=True, help="that of its latents")
    parser.add_argument("--output", default="outputs/examples", help="folder of the picture")
    parser.add_argument("--images", default="", help="folder of images; without: digits")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--label", type=int, default=8, help="the class that they are given")
    parser.add_argument("--num-steps", type=int, default=32)
    options = parser.parse_args(argv)

    dit: ldj.LightningDiT = ldj.load(options.generator)
    vae: ldj.VAVAE = ldj.load(options.tokenizer)
    kind, size = "folder" if options.images else "digits", vae.resolution
    source = open_images(kind, path=options.images, split="test", size=size, tfds_name="")
    chosen = range(min(options.count, len(source)))
    images = np.stack([center_crop_adm(source.image(i), size) for i in chosen])
    labels = jnp.array([source.label(i) for i in chosen])

    latents = encode(dit, vae, images)
    grid = shifted_grid(dit.flow, options.num_steps, 0.0)  # from noise, 0, to data, 1
    noise = solve(dit, latents, labels, grid[::-1])
    back = solve(dit, noise, labels, grid)
    edited = solve(dit, noise, jnp.full_like(labels, options.label), grid)

    error = float(jnp.abs(back - latents).max())
    print(f"noise: mean {noise.mean():.3f}, standard deviation {noise.std():.3f} (of a draw: 0, 1)")
    print(f"round trip: latents of size {latents.std():.3f} come back within {error:.2g}")
    rows = np.concatenate([images, decode(dit, vae, back), decode(dit, vae, edited)])
    save_png(f"{options.output}/edit.png", image_grid(rows, len(images)))
    return error, rows


if __name__ == "__main__":
    main()
