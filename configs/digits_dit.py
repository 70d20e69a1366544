"""A small LightningDiT on the digits' latents: no download, minutes on a laptop.

Needs the latents that configs/digits_vavae.py makes with --mode=extract.

    python main.py --config=configs/digits_dit.py --workdir=outputs/demo/generator
"""

from lightningdit_jax.configs import base


def get_config():
    """Every part of the published model: 5 blocks of width 96 instead of 28 of 1152."""
    c = base.get_config()
    c.compute.dtype = "float32"
    c.model.variant = "B/1"
    c.model.depth = 5
    c.model.hidden_size = 96
    c.model.num_heads = 4
    c.model.input_size = 4
    c.model.in_channels = 8
    c.model.num_classes = 10
    c.data.path = "outputs/demo/latents"
    c.data.flip = False
    c.data.num_threads = 2
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 50
    # The cosine loss of a zero-initialized output has a huge gradient at the first step. Unclipped,
    # Adam's second moment keeps the last layer still for hundreds of steps, which a run this short
    # does not have.
    c.optimizer.max_grad_norm = 1.0
    c.train.num_steps = 850
    c.train.batch_size = 128
    c.train.ema_decay = 0.99
    c.train.log_every_steps = 50
    c.train.checkpoint_every_steps = 425
    c.sample.tokenizer = "outputs/demo/tokenizer"
    c.sample.num_samples = 1000
    c.sample.batch_size = 250
    c.sample.labels = "balanced"
    c.sample.num_steps = 32
    c.sample.cfg_scale = 2.0
    c.sample.cfg_channels = 0
    c.sample.cfg_interval_start = 0.0
    c.sample.timestep_shift = 0.0
    c.evaluate.metric = "digits"
    c.evaluate.train_samples = 250
    return c
