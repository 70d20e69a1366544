"""VA-VAE f16d32 on ImageNet 256x256, aligned with DINOv2: 50 epochs (arXiv 2501.01423).

The release's vavae/configs/f16d32_vfdinov2.yaml: Adam 1e-4 for both players, global batch 256.
Products are of bfloat16 here; the release's are of float32, --config.compute.dtype=float32.
Published: rFID 0.28, PSNR 27.96, LPIPS 0.096, SSIM 0.79. Frozen networks are checkpoints of
convert_torch_weights.py, --kind=lpips and --kind=dinov2.

    python main.py --config=configs/vavae_f16d32.py --workdir=runs/vavae \
        --config.data.path=IMAGENET_TRAIN_FOLDER \
        --config.frozen.lpips=LPIPS --config.frozen.foundation=DINOV2

With MAE instead, rFID 0.28: --config.vae_loss.alignment=mae --config.frozen.foundation=MAE
Without alignment, the LDM baseline, rFID 0.26: --config.vae_loss.alignment=none
"""

from lightningdit_jax.configs import base

STEPS_PER_EPOCH = 5_005  # 1,281,167 images at batch 256


def get_config():
    """50 epochs at batch 256."""
    c = base.get_config()
    c.kind = "vavae"
    c.data.source = "folder"
    c.data.flip = False
    c.optimizer.learning_rate = 1e-4
    c.optimizer.beta1 = 0.5
    c.optimizer.beta2 = 0.9
    c.train.num_steps = 50 * STEPS_PER_EPOCH
    c.train.batch_size = 256
    c.train.ema_decay = 0.0
    return c
