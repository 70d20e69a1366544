"""VA-VAE f16d64 on ImageNet 256x256, 50 epochs (arXiv 2501.01423).

As vavae_f16d32.py, with its ways to train against MAE or without alignment, but 64 channels.
Published rFID: DINOv2 0.14, MAE 0.15, without alignment 0.17.

    python main.py --config=configs/vavae_f16d64.py --workdir=runs/vavae_f16d64 \
        --config.data.path=IMAGENET_TRAIN_FOLDER \
        --config.frozen.lpips=LPIPS --config.frozen.foundation=DINOV2
"""

from lightningdit_jax.configs import vavae_f16d32


def get_config():
    """vavae_f16d32 with 64 channels."""
    c = vavae_f16d32.get_config()
    c.tokenizer.z_channels = 64
    c.tokenizer.embed_dim = 64
    return c
