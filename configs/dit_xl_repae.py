"""LightningDiT-XL/1 and VA-VAE f16d32 trained together by REPA-E, 80 epochs of ImageNet 256x256.

Leng et al. 2025, arXiv 2504.10483: of SiT-XL/1 and VA-VAE FID 1.73 with guidance (cfg 1.9 on all
channels from t = 0.175), 4.05 without, says the README of their code. The recipe is that of its
train_repae.py (github.com/End2End-Diffusion/REPA-E): 400,000 steps at batch 256, AdamW at 1e-4 for
all networks, each clipped by its own norm, uniform times, the tokenizer's loss as means over pixels
with an adversary whose weight is no ratio of gradients. The architecture stays LightningDiT's. It
begins from a trained tokenizer with the statistics of its latents (--latent-stats when it is
converted).

    python main.py --config=configs/dit_xl_repae.py --workdir=runs/dit_xl_repae \
        --config.data.path=IMAGENET_TRAIN_FOLDER --config.repae.init=VAVAE \
        --config.frozen.lpips=LPIPS --config.frozen.foundation=DINOV2_B
    python main.py --config=runs/dit_xl_repae --mode=sample
"""

from lightningdit_jax.configs import base

LATENT = 16 * 16 * 32  # numbers of a latent


def get_config():
    """400,000 steps at batch 256."""
    c = base.get_config()
    c.data.source = "folder"
    c.data.augment = "center_crop"
    c.repa.features = "computed"
    c.repae.weight = 1.5
    c.vae_loss.reduction = "mean"
    c.vae_loss.kl_weight = 1e-6 * LATENT / 2  # 1e-6 of the divergence of a latent; see kl_loss
    c.vae_loss.disc_weight = 0.1
    c.vae_loss.adaptive_disc = False
    c.vae_loss.alignment = "none"
    c.stages.disc_start = (0,)
    c.flow.timesteps = "uniform"
    c.flow.cosine_weight = 0.0
    c.optimizer.learning_rate = 1e-4
    c.optimizer.beta2 = 0.999
    c.optimizer.max_grad_norm = 1.0
    c.train.num_steps = 400_000
    c.train.batch_size = 256
    c.sample.solver = "sde_euler"
    c.sample.num_steps = 250
    c.sample.cfg_scale = 1.9
    c.sample.cfg_channels = 0
    c.sample.cfg_interval_start = 0.175
    c.sample.timestep_shift = 0.0
    return c
