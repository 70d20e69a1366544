"""A tokenizer's checkpoint with random weights, without training."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.checkpoint import FORMAT_VERSION, save_checkpoint
from lightningdit_jax.models.vae import VAVAE
from tests import tiny


def save_tokenizer(path, *, seed=0, change=lambda params: None):
    """Writes the tokenizer of tiny.config("digits_vavae"); change: of its weights, in place."""
    architecture = tokenizer_config(tiny.config("digits_vavae"))
    _, params = nnx.split(VAVAE(architecture, rngs=nnx.Rngs(seed)), nnx.Param)
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": "vavae",
        "architecture": dataclasses.asdict(architecture),
        "step": 0,
    }
    params = jax.tree.map(np.array, nnx.to_pure_dict(params))
    change(params)
    save_checkpoint(str(path), {"params": params}, {"meta": meta})
    return path
