"""LightningDiT-XL/2 on latents of Stable Diffusion's VAE, 80 epochs of ImageNet 256x256.

The row of arXiv 2501.01423 with all its changes but VA-VAE, ladder_rope of configs/paper.py:
FID 7.13 without guidance, drawn by dopri5. docs/recipes.md leads from images to samples.

    python main.py --config=configs/dit_xl_sdvae.py --workdir=runs/dit_xl_sdvae \
        --config.data.path=LATENTS
"""

from lightningdit_jax.configs import paper


def get_config():
    """Four channels of 32x32 in patches of 2, multiplied by 0.18215."""
    return paper.get_config("ladder_rope")
