"""What `make demo` leaves, tiny and untrained: the same folders, and weights that are random."""

import pathlib
import runpy

from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.assembly.models import tokenizer_config
from tests import tiny
from tests.inference.tiny_generator import random_generator

ROOT = pathlib.Path(__file__).parent.parent.parent
SIDE = 8  # of the tokenizer's latents


def save_demo(folder):
    """Writes FOLDER/generator, FOLDER/tokenizer and FOLDER/latents, which the generator knows."""
    latents = tiny.write_latents(folder / "latents", size=SIDE)
    dit = random_generator(tiny.dit_config(input_size=SIDE))
    dit.latent_scaling = tiny.load_scaling(latents)
    ldj.save(str(folder / "generator"), dit)
    architecture = tokenizer_config(tiny.config("digits_vavae"))
    vae = ldj.VAVAE(architecture, rngs=nnx.Rngs(0))
    vae.decoder.conv_out.kernel[...] *= 30  # a fresh one makes nearly the same gray of all latents
    ldj.save(str(folder / "tokenizer"), vae)


def example(name):
    """The names of a file of examples/, which is not run as a program."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
