"""A generator's checkpoint with random weights, without training."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.checkpoint import FORMAT_VERSION, save_checkpoint
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from tests import tiny


def random_generator(architecture=None, *, seed=1):
    """A LightningDiT whose output is not zero, as a fresh one's is."""
    graphdef, params = nnx.split(
        LightningDiT(architecture or tiny.dit_config(), rngs=nnx.Rngs(0)), nnx.Param
    )
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    leaves = [x + 0.1 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


def save_generator(path, dit, *, flow: Flow, scaling: LatentScaling | None, averages=(), **more):
    """Writes a checkpoint of the module, trained to this flow on latents of this scaling.

    averages: (item, module) of others that it holds.
    """
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": "lightningdit",
        "architecture": dataclasses.asdict(dit.config),
        "flow": dataclasses.asdict(flow),
        "step": 0,
        **more,
    }
    if scaling is not None:
        meta["latents"] = scaling.to_meta()
    items = {
        item: jax.device_get(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
        for item, module in [("params", dit), *averages]
    }
    save_checkpoint(str(path), items, {"meta": meta})
    return path
