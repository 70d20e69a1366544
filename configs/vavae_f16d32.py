"""The f16d32 tokenizer on ImageNet 256x256: L1 and KL so far, no adversary, no alignment.

The release's vavae/configs/f16d32_*.yaml: Adam 1e-4, betas (0.5, 0.9), global batch 256, 50 epochs.
Perceptual, adversarial and alignment losses are not there yet, so this does not reach the
published rFID; the architecture and the latents' format are the published ones.

    python main.py --config=configs/vavae_f16d32.py --workdir=runs/vavae \
        --config.data.path=IMAGENET_TRAIN_FOLDER
"""

from configs import base


def get_config():
    """50 epochs at batch 256."""
    c = base.get_config()
    c.kind = "vavae"
    c.data.source = "folder"
    c.optimizer.learning_rate = 1e-4
    c.optimizer.beta1 = 0.5
    c.optimizer.beta2 = 0.9
    c.train.num_steps = 250_000
    c.train.batch_size = 256
    c.train.ema_decay = 0.0
    return c
