"""LightningDiT and VA-VAE: train, extract, sample, evaluate. `lightningdit` where it is installed.

python main.py --config=configs/dit_xl.py --workdir=runs/dit_xl --config.data.path=LATENTS
"""

from lightningdit_jax.commands.start import lightningdit

if __name__ == "__main__":
    lightningdit()
