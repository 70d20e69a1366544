"""VA-VAE f16d16 on ImageNet 256x256, 50 epochs (arXiv 2501.01423).

As vavae_f16d32.py, with its ways to train against MAE or without alignment, but 16 channels.
Published rFID: DINOv2 0.55, without alignment 0.49.

    python main.py --config=configs/vavae_f16d16.py --workdir=runs/vavae_f16d16 \
        --config.data.path=IMAGENET_TRAIN_FOLDER \
        --config.frozen.lpips=LPIPS --config.frozen.foundation=DINOV2
"""

from lightningdit_jax.configs import vavae_f16d32


def get_config():
    """vavae_f16d32 with 16 channels."""
    c = vavae_f16d32.get_config()
    c.tokenizer.z_channels = 16
    c.tokenizer.embed_dim = 16
    return c
