"""PyTorch weights to checkpoints, and back. `lightningdit-convert` where it is installed.

python convert_torch_weights.py --src lightningdit-xl-imagenet256-64ep.pt --dst ckpts/dit-xl
"""

from lightningdit_jax.commands.start import lightningdit_convert

if __name__ == "__main__":
    lightningdit_convert()
