"""What a page is opened on: a tiny generator of named classes, its tokenizer, and a config."""

from lightningdit_jax.averages import power_name
from lightningdit_jax.flow.predictions import Flow
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator
from tests.inference.tiny_tokenizer import save_tokenizer

WIDTHS = (0.05, 0.1)  # of the averages that the generator has beside its weights


def page_config(folder, names, **architecture):
    """Writes both into the folder; batches of 8 images, on any free port."""
    save_tokenizer(folder / "tokenizer")
    scaling = tiny.load_scaling(tiny.write_latents(folder / "latents"))
    architecture = tiny.dit_config(**architecture)
    dit, *averages = (random_generator(architecture, seed=seed) for seed in range(1, 4))
    save_generator(
        folder / "dit",
        dit,
        flow=Flow(),
        scaling=scaling,
        averages=zip(map(power_name, WIDTHS), averages),
        step=20,
        config={"train": {"ema_sigmas": WIDTHS}},
        class_names=names,
    )
    return tiny.config(
        "digits_dit",
        sample__checkpoint=str(folder / "dit"),
        sample__tokenizer=str(folder / "tokenizer"),
        sample__num_steps=3,
        sample__batch_size=8,
        page__port=0,
    )
