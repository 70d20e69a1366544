"""A small LightningDiT on the digits' latents: no download, minutes on a laptop.

Needs the latents that configs/digits_vavae.py makes with --mode=extract.

    python main.py --config=configs/digits_dit.py --workdir=outputs/demo/generator
"""

from configs import base


def get_config():
    """All parts of the published model at a hundredth of its width times depth."""
    c = base.get_config()
    c.compute.dtype = "float32"
    c.model.variant = "B/1"
    c.model.depth = 6
    c.model.hidden_size = 128
    c.model.num_heads = 4
    c.model.input_size = 4
    c.model.in_channels = 8
    c.model.num_classes = 10
    c.data.path = "outputs/demo/latents"
    c.data.flip = False
    c.data.num_threads = 2
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 50
    c.train.num_steps = 1500
    c.train.batch_size = 128
    c.train.ema_decay = 0.99
    c.train.log_every_steps = 50
    c.train.checkpoint_every_steps = 500
    c.sample.tokenizer = "outputs/demo/tokenizer"
    c.sample.num_samples = 1000
    c.sample.batch_size = 250
    c.sample.labels = "balanced"
    c.sample.num_steps = 50
    c.sample.cfg_scale = 2.0
    c.sample.cfg_channels = 0
    c.sample.cfg_interval_start = 0.0
    c.sample.timestep_shift = 0.0
    c.evaluate.metric = "digits"
    return c
