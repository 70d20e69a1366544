"""REPA-E on the digits: the demo's tokenizer trains on, beside a generator, through the alignment.

Needs the tokenizer and the vision model of the demo (configs/digits_vavae.py), and no latents.

    python main.py --config=configs/digits_repae.py --workdir=outputs/repae
    python main.py --config=outputs/repae --mode=sample

With --config.repae.init= the tokenizer is a fresh one.
"""

from lightningdit_jax.configs import digits_dit, digits_vavae


def get_config():
    """The generator of digits_dit.py for as many steps, aligned after the second of five blocks."""
    c, of_tokenizer = digits_dit.get_config(), digits_vavae.get_config()
    for section in ("tokenizer", "discriminator"):
        c[section].update(of_tokenizer[section])
    c.data.source = "digits"
    c.data.path = ""
    c.data.augment = "center_crop"
    c.repa.features = "computed"
    c.repa.depth = 2
    c.repa.projector_dim = 96
    c.repae.weight = 1.5
    c.repae.init = "outputs/demo/tokenizer"
    c.frozen.foundation = "outputs/demo/foundation"
    # Means over pixels, as in the authors' code: beside a sum 1.5 would count for nothing.
    c.vae_loss.reduction = "mean"
    c.vae_loss.perceptual_weight = 0.0
    c.vae_loss.kl_weight = 1e-4
    c.vae_loss.disc_weight = 0.05
    c.vae_loss.alignment = "none"
    c.stages.disc_start = (0,)
    c.sample.tokenizer = ""  # the one that was trained
    return c
