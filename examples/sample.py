"""Samples of some classes, with and without guidance, in one picture.

    python examples/sample.py --generator=outputs/demo/generator \
        --tokenizer=outputs/demo/tokenizer --output=outputs/examples --labels 0 1 2 3 4 5 6 7 8 9

A row for each strength of guidance, a column for each class: OUTPUT/sample.png. The noise of a
column is the same in every row, so what differs is what guidance does.
"""

import argparse

import numpy as np

import lightningdit_jax as ldj
from lightningdit_jax.inference.pictures import image_grid, save_png


def main(argv: list[str] | None = None) -> np.ndarray:
    """Draws and writes. -> images uint8 [rows * columns, H, W, 3]."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True, help="checkpoint or workdir of a generator")
    parser.add_argument("--tokenizer", required=True, help="that of its latents")
    parser.add_argument("--output", default="outputs/examples", help="folder of the picture")
    parser.add_argument("--labels", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--cfg-scales", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--num-steps", type=int, default=32)
    options = parser.parse_args(argv)

    dit: ldj.LightningDiT = ldj.load(options.generator)
    vae: ldj.VAVAE = ldj.load(options.tokenizer)
    # Any option of lightningdit_jax/sampling_options.py goes by name; cfg_channels=0 guides all
    # latent channels. The published ImageNet models: cfg_scale=6.7, cfg_channels=3,
    # cfg_interval_start=0.125, timestep_shift=0.3, num_steps=250.
    rows = [
        ldj.generate(
            dit,
            vae,
            options.labels,
            seed=0,
            num_steps=options.num_steps,
            cfg_scale=scale,
            cfg_channels=0,
        )
        for scale in options.cfg_scales
    ]
    images = np.concatenate(rows)
    save_png(f"{options.output}/sample.png", image_grid(images, len(options.labels)))
    return images


if __name__ == "__main__":
    main()
