"""LightningDiT-1p0B/1 on VA-VAE f16d32 latents: 1.03 B parameters.

python main.py --config=configs/dit_1p0b.py --workdir=runs/dit_1p0b --config.data.path=LATENTS
"""

from lightningdit_jax.configs import base


def get_config():
    """The recipe of base with another size."""
    c = base.get_config()
    c.model.variant = "1p0B/1"
    return c
