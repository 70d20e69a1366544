"""The released VA-VAE f16d32: 130 epochs in three stages (arXiv 2501.01423).

The release's vavae/configs/f16d32_vfdinov2_long.yaml, whose three runs are one here: 100 epochs of
strong alignment without margins, 15 with a fifth of its weight, 15 with margins. The adversary
starts late only in the first. Adam's moments go on from stage to stage where the release starts
them anew. Generators trained on it reach FID 2.17 without guidance, on the 50-epoch tokenizer 3.17.

    python main.py --config=configs/vavae_f16d32_long.py --workdir=runs/vavae_long \
        --config.data.path=IMAGENET_TRAIN_FOLDER \
        --config.frozen.lpips=LPIPS --config.frozen.foundation=DINOV2
"""

from lightningdit_jax.configs import vavae_f16d32


def get_config():
    """vavae_f16d32 in stages of 100, 15 and 15 epochs."""
    c = vavae_f16d32.get_config()
    epoch = vavae_f16d32.STEPS_PER_EPOCH
    c.stages.start = (0, 100 * epoch, 115 * epoch)
    c.stages.disc_start = (5001, 1, 1)
    c.stages.vf_weight = (0.5, 0.1, 0.1)
    c.stages.distmat_margin = (0.0, 0.0, 0.25)
    c.stages.cos_margin = (0.0, 0.0, 0.5)
    c.train.num_steps = 130 * epoch
    return c
