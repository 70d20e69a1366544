"""Labels -> images in one call, from modules."""

from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.fitting import (
    GeneratorMeaning,
    check_tokenizer,
    check_weak,
)
from lightningdit_jax.inference.sampling.options import Sampling, check_given
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.tokenizer import Tokenizer
from lightningdit_jax.parallel.mesh import make_mesh, replicated
from lightningdit_jax.whole_numbers import NUM_SEEDS, whole_number


def generate(
    dit: LightningDiT,
    vae: Tokenizer,
    labels: ArrayLike,
    *,
    seed: int = 0,
    latent_stats: LatentScaling | Any | Literal["none"] = None,
    weak: LightningDiT | None = None,
    batch_size: int = 64,
    decode_batch_size: int = 16,
    start_index: int = 0,
    mesh: Mesh | None = None,
    **sampling: Any,
) -> np.ndarray:
    """Images of the given classes. labels: ints [N] -> uint8 [N, H, W, 3].

    Sample i is a function of (seed, start_index + i, labels[i]) alone, whatever the batch size and
    the devices; seed and start_index + i are below 2**32. What the generator was trained to do, its
    flow and the scaling of its latents, is what `load` read (dit.flow and dit.latent_scaling; a
    module of one's own is of the release's flow unless that is set). latent_stats replaces the
    scaling: a LatentScaling, anything else with `mean` and `std` [C], or "none" for latents as the
    tokenizer makes them. weak: a worse generator to guide against, instead of the null label
    (autoguidance). batch_size: images of all devices at a time; decode_batch_size: that a device
    decodes at once. mesh: None is all devices. sampling: SamplingOptions by name, all of which have
    defaults there: num_steps (grid points), solver, cfg_scale, cfg_channels (0 is all),
    cfg_interval_start, timestep_shift, ... Guidance and shift are off unless given: published ones
    are of one model, and its config has them.
    Raises ValueError for labels outside 0..num_classes-1, models of another kind or that do not fit
    each other, latents of a scaling that nobody knows, options of another solver or of guidance
    where there is none, and values that do not fit.
    """
    _check_kind("dit", dit, LightningDiT)
    _check_kind("vae", vae, Tokenizer)
    config, labels = dit.config, np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels!r}; expected a list of class numbers")
    if labels.size == 0:
        raise ValueError("labels are empty; expected a class number for each image")
    if not 0 <= labels.min() <= labels.max() < config.num_classes:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}; "
            f"expected 0 to {config.num_classes - 1}"
        )
    seed = whole_number("seed", seed, 0, NUM_SEEDS - 1)
    batch_size = whole_number("batch_size", batch_size, 1, NUM_SEEDS)
    decode_batch_size = whole_number("decode_batch_size", decode_batch_size, 1, NUM_SEEDS)
    start_index = whole_number("start_index", start_index, 0, NUM_SEEDS - len(labels))
    flow, scaling = dit.flow or Flow(), _scaling(dit, latent_stats)
    check_tokenizer(config, vae.embed_dim, "vae")
    if weak is not None:
        _check_kind("weak", weak, LightningDiT)
        theirs = GeneratorMeaning(weak.config, weak.flow or Flow(), weak.latent_scaling)
        check_weak(GeneratorMeaning(config, flow, scaling), theirs, "weak")
    check_given(sampling)
    mesh = make_mesh() if mesh is None else mesh
    modules = {"dit": dit, "vae": vae} | ({} if weak is None else {"weak": weak})
    split = {name: nnx.split(module, nnx.Param) for name, module in modules.items()}
    structure = Structure(
        **{name: graphdef for name, (graphdef, _) in split.items()},
        config=config,
        scaling=scaling,
        flow=flow,
        decode_batch_size=decode_batch_size,
    )
    weights = structure.weights({n: nnx.to_pure_dict(params) for n, (_, params) in split.items()})
    sampler = Sampler(structure, jax.device_put(weights, replicated(mesh)), mesh, batch_size)
    indices = np.arange(start_index, start_index + len(labels))
    batches = sampler.batches(indices, labels, Sampling(**sampling), seed=seed)
    return np.concatenate([images for _, images in batches])


def _check_kind(name: str, model: Any, kind: type) -> None:
    if not isinstance(model, kind):
        raise ValueError(
            f"{name} is a {type(model).__name__}; expected a {kind.__name__}, which "
            "lightningdit_jax.load makes of its checkpoint"
        )


def _scaling(dit: LightningDiT, stats: Any) -> LatentScaling:
    """Of the generator's latents: what is given, else what its checkpoint says."""
    if stats is None:
        if dit.latent_scaling is None:
            raise ValueError(
                "the generator does not say how its latents were normalized; give latent_stats, "
                'or "none" where they were not (convert_torch_weights.py --latent-stats stores it)'
            )
        return dit.latent_scaling
    if isinstance(stats, str):
        if stats != "none":
            raise ValueError(f"latent_stats is '{stats}'; expected statistics or \"none\"")
        return LatentScaling()
    if isinstance(stats, LatentScaling):
        return stats
    if not (hasattr(stats, "mean") and hasattr(stats, "std")):
        raise ValueError(
            f"latent_stats is a {type(stats).__name__}; expected a LatentScaling, something else "
            'with `mean` and `std`, or "none"'
        )
    return LatentScaling.of_arrays(stats.mean, stats.std)
