"""A small tokenizer on scikit-learn's handwritten digits: no download, minutes on a laptop.

1,797 digits of 8x8 pixels (Alpaydin & Kaynak 1998), upscaled to 16x16. The whole loss but
LPIPS, whose network comes only by download; aligned with a small ViT that learns to read digits.

    python scripts/digits_foundation.py --output=outputs/demo/foundation
    python main.py --config=configs/digits_vavae.py --workdir=outputs/demo/tokenizer
"""

from lightningdit_jax.configs import base


def get_config():
    """f4d8 on 16x16 images."""
    c = base.get_config()
    c.kind = "vavae"
    c.compute.dtype = "float32"
    c.tokenizer.resolution = 16
    c.tokenizer.ch = 32
    c.tokenizer.ch_mult = (1, 1, 2)
    c.tokenizer.num_res_blocks = 1
    c.tokenizer.encoder_attn_resolutions = ()
    c.tokenizer.decoder_attn_resolutions = ()
    c.tokenizer.z_channels = 8
    c.tokenizer.embed_dim = 8
    c.data.source = "digits"
    c.data.augment = "center_crop"
    c.data.flip = False
    c.data.num_threads = 2
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 50
    c.optimizer.beta1 = 0.5
    c.optimizer.beta2 = 0.99
    c.vae_loss.kl_weight = 1e-3
    c.vae_loss.perceptual_weight = 0.0
    c.vae_loss.disc_weight = 0.05  # a short run of an adversary costs reconstruction
    c.vae_loss.alignment = "vit"
    c.stages.disc_start = (261,)  # optimizer steps: the second half of the run
    c.discriminator.ndf = 16
    c.discriminator.num_layers = 2
    c.frozen.foundation = "outputs/demo/foundation"
    c.train.num_steps = 260
    c.train.batch_size = 64
    c.train.ema_decay = 0.0
    c.train.log_every_steps = 20
    c.train.checkpoint_every_steps = 130
    c.extract.path = "outputs/demo/latents"
    return c
