"""LightningDiT-L/1 on VA-VAE f16d32 latents: 458 M parameters, 80 epochs in the paper.

python main.py --config=configs/dit_l.py --workdir=runs/dit_l --config.data.path=LATENTS
"""

from lightningdit_jax.configs import base


def get_config():
    """The recipe of base with another size."""
    c = base.get_config()
    c.model.variant = "L/1"
    return c
