"""LightningDiT-XL/1 on VA-VAE f16d32 latents of 512x512 images, begun from the one of 256x256.

The recipe of configs/dit_xl.py on 32x32 latents, 1024 tokens. Nothing is published for it: steps,
guidance and timestep shift are those of 256x256 and have not been tuned. docs/recipes.md makes the
latents.

    python main.py --config=configs/dit_xl_512.py --workdir=runs/dit_xl_512 \
        --config.data.path=LATENTS_512 --config.train.init=runs/dit_xl
"""

from lightningdit_jax.configs import base


def get_config():
    """Needs train.init: latents are scaled as that checkpoint's are."""
    c = base.get_config()
    c.model.input_size = 32
    c.data.stats = "checkpoint"
    return c
