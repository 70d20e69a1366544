"""LightningDiT-XL/1 with internal guidance on VA-VAE f16d32 latents, 680 epochs of ImageNet.

Zhou et al. 2025, arXiv 2512.24176: FID 1.19 with labels at random, 1.07 balanced
(--config.sample.labels=balanced), by cfg 1.45 on all channels from t = 0.19 and ig 1.4. The recipe
is that of the authors' lightningdit_xl_vavae_f16d32.yaml (github.com/CVL-UESTC/Internal-Guidance),
whose max_steps is 3,000,000, while their README says 680 epochs of the weights.

Its optimizer is that of their code: Muon with weight decay 0.01 on every parameter of two axes or
more, embeddings, modulation and final layers among them, Adam on the rest, both at rate 2e-4
(lightningdit_jax/training/muon.py, muon_all).

    python main.py --config=configs/dit_xl_ig.py --workdir=runs/dit_xl_ig --config.data.path=LATENTS
"""

from lightningdit_jax.configs import base


def get_config():
    """3,400,000 steps at batch 256."""
    c = base.get_config()
    c.model.aux_head_depth = 8
    c.train.num_steps = 3_400_000
    c.train.batch_size = 256
    c.optimizer.name = "muon_all"
    c.optimizer.weight_decay = 0.01
    c.optimizer.max_grad_norm = 1.0
    c.flow.timesteps = "uniform"
    c.sample.solver = "heun2"
    c.sample.num_steps = 125
    c.sample.cfg_scale = 1.45
    c.sample.cfg_channels = 0
    c.sample.cfg_interval_start = 0.19
    c.sample.ig_scale = 1.4
    return c
