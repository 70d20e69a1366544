"""Labels -> images in one call, from modules."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.inference.sampler import Sampler, Structure
from lightningdit_jax.inference.sampling import Sampling
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.parallel.mesh import make_mesh, replicated


def generate(
    dit: LightningDiT,
    vae: VAVAE,
    labels: Sequence[int],
    *,
    seed: int = 0,
    latent_stats: LatentScaling | Any = None,
    weak: LightningDiT | None = None,
    batch_size: int = 64,
    start_index: int = 0,
    mesh: Mesh | None = None,
    **sampling: Any,
) -> np.ndarray:
    """Images of the given classes. labels: ints [N] -> uint8 [N, H, W, 3].

    Sample i is a function of (seed, start_index + i, labels[i]) alone, whatever the batch size and
    the devices. latent_stats: anything with `mean` and `std` [C]; None means latents were not
    normalised. weak: a worse generator to guide against, instead of the null label (autoguidance).
    mesh: None is all devices. sampling: the fields of Sampling: num_steps (grid points), solver,
    cfg_scale, cfg_channels (0 is all), cfg_interval_start, timestep_shift, ...
    Raises ValueError for labels outside 0..num_classes-1 and values that do not fit.
    """
    config, labels = dit.config, np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels!r}; expected a list of class numbers")
    if labels.size and not 0 <= labels.min() <= labels.max() < config.num_classes:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}; "
            f"expected 0 to {config.num_classes - 1}"
        )
    mesh = make_mesh() if mesh is None else mesh
    modules = {"dit": dit, "vae": vae} | ({} if weak is None else {"weak": weak})
    split = {name: nnx.split(module, nnx.Param) for name, module in modules.items()}
    structure = Structure(
        **{name: graphdef for name, (graphdef, _) in split.items()},
        config=config,
        scaling=as_scaling(latent_stats),
    )
    weights = {name: params for name, (_, params) in split.items()}
    sampler = Sampler(structure, jax.device_put(weights, replicated(mesh)), mesh)
    indices = start_index + np.arange(len(labels))
    batches = sampler.batches(
        indices, labels, Sampling(**sampling), seed=seed, batch_size=batch_size
    )
    return np.concatenate([images for _, images in batches])


def as_scaling(stats: Any) -> LatentScaling:
    """LatentScaling from itself, from anything with `mean` and `std` [C], or from None."""
    if stats is None:
        return LatentScaling(None, None)
    if isinstance(stats, LatentScaling):
        return stats
    return LatentScaling(*(tuple(np.ravel(v).tolist()) for v in (stats.mean, stats.std)))
