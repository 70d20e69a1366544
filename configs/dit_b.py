"""LightningDiT-B/1 on VA-VAE f16d32 latents: 131 M parameters, 160 epochs in the paper.

python main.py --config=configs/dit_b.py --workdir=runs/dit_b --config.data.path=LATENTS
"""

from lightningdit_jax.configs import base


def get_config():
    """The recipe of base with another size."""
    c = base.get_config()
    c.model.variant = "B/1"
    return c
