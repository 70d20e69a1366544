"""Labels -> images: sampling by global index, the same on any number of devices."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.guidance import guide
from lightningdit_jax.flow.ode import SOLVERS, integrate
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.inference.load import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE, decode_to_uint8
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh, num_batch_shards, replicated
from lightningdit_jax.parallel.multihost import to_host


def initial_noise(seed: int, indices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise of samples by their global index. indices [B] -> [B, *shape].

    A function of (seed, index) alone: batch size and devices change nothing.
    """
    root = jax.random.key(seed)

    def one(index: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(root, index), shape, jnp.float32)

    return jax.vmap(one)(indices)


@functools.lru_cache(maxsize=8)
def make_sampler(
    dit_graphdef: nnx.GraphDef,
    vae_graphdef: nnx.GraphDef,
    *,
    latent_shape: tuple[int, int, int],
    null_label: int,
    scaling: LatentScaling,
    seed: int,
    num_steps: int,
    solver: str,
    cfg_scale: float,
    cfg_channels: int,
    cfg_interval_start: float,
    timestep_shift: float,
    mesh: Mesh,
) -> Callable[[Any, Any, jax.Array, jax.Array], jax.Array]:
    """sampler(dit_params, vae_params, indices [B], labels [B]) -> images [B, H, W, 3] uint8.

    The whole solver loop and the decoder are one program, compiled once per set of arguments and
    batch size. Indices and labels are cut over the mesh, images come back replicated. cfg_channels
    0 guides all channels. Raises ValueError for an unknown solver, a bad grid or channel count.
    """
    if solver not in SOLVERS:
        raise ValueError(unknown_name("solver", solver, tuple(SOLVERS)))
    grid = time_grid(num_steps, timestep_shift)

    split = batch_sharding(mesh)

    @functools.partial(
        jax.jit, in_shardings=(None, None, split, split), out_shardings=replicated(mesh)
    )
    def sample(dit_params: Any, vae_params: Any, indices: jax.Array, labels: jax.Array):
        def velocity_fn(x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
            return nnx.merge(dit_graphdef, dit_params)(x, t, y)

        guided = guide(
            velocity_fn,
            labels,
            null_label,
            cfg_scale=cfg_scale,
            cfg_channels=cfg_channels or None,
            interval_start=cfg_interval_start,
        )
        latents = integrate(solver, guided, initial_noise(seed, indices, latent_shape), grid)
        vae = nnx.merge(vae_graphdef, vae_params)
        return decode_to_uint8(vae.decode(scaling.invert(latents)))

    return sample


def sample_batches(
    sampler: Callable,
    dit_params: Any,
    vae_params: Any,
    labels: np.ndarray,
    *,
    mesh: Mesh,
    batch_size: int,
    start_index: int = 0,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first index, images uint8 [b, H, W, 3] on the host) for labels [N], in order.

    batch_size is rounded up to fill the mesh; the last batch is padded, and the padding dropped.
    """
    shards = num_batch_shards(mesh)
    batch_size = -(-min(batch_size, len(labels)) // shards) * shards
    split = batch_sharding(mesh)
    for first in range(0, len(labels), batch_size):
        chunk = labels[first : first + batch_size]
        padded = np.resize(chunk, batch_size).astype(np.int32)
        indices = np.arange(batch_size, dtype=np.int32) + start_index + first
        images = sampler(dit_params, vae_params, *jax.device_put((indices, padded), split))
        yield first, to_host(images)[: len(chunk)]


def generate(
    dit: LightningDiT,
    vae: VAVAE,
    labels: Sequence[int],
    *,
    seed: int = 0,
    num_steps: int = 250,
    solver: str = "euler",
    cfg_scale: float = 1.0,
    cfg_channels: int = 3,
    cfg_interval_start: float = 0.0,
    timestep_shift: float = 0.0,
    latent_stats: LatentScaling | Any = None,
    batch_size: int = 64,
    start_index: int = 0,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Images of the given classes. labels: ints [N] -> uint8 [N, H, W, 3].

    Sample i is a function of (seed, start_index + i, labels[i]) alone, whatever the batch size and
    the devices. num_steps counts grid points, so 250 are 249 evaluations. cfg_channels: guided
    channels (0 is all); below cfg_interval_start there is no guidance. latent_stats: anything with
    `mean` and `std` [C]; None means latents were not normalised. mesh: None is all devices.
    Raises ValueError for labels outside 0..num_classes-1 and values that do not fit.
    """
    config = dit.config
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels!r}; expected a list of class numbers")
    if labels.size and not 0 <= labels.min() <= labels.max() < config.num_classes:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}; "
            f"expected 0 to {config.num_classes - 1}"
        )
    mesh = make_mesh() if mesh is None else mesh
    dit_graphdef, dit_params = nnx.split(dit, nnx.Param)
    vae_graphdef, vae_params = nnx.split(vae, nnx.Param)
    sampler = make_sampler(
        dit_graphdef,
        vae_graphdef,
        latent_shape=(config.input_size, config.input_size, config.in_channels),
        null_label=config.num_classes,
        scaling=as_scaling(latent_stats),
        seed=seed,
        num_steps=num_steps,
        solver=solver,
        cfg_scale=cfg_scale,
        cfg_channels=cfg_channels,
        cfg_interval_start=cfg_interval_start,
        timestep_shift=timestep_shift,
        mesh=mesh,
    )
    batches = sample_batches(
        sampler,
        *jax.device_put((dit_params, vae_params), replicated(mesh)),
        labels,
        mesh=mesh,
        batch_size=batch_size,
        start_index=start_index,
    )
    return np.concatenate([images for _, images in batches])


def as_scaling(stats: Any) -> LatentScaling:
    """LatentScaling from itself, from anything with `mean` and `std` [C], or from None."""
    if stats is None:
        return LatentScaling(None, None)
    if isinstance(stats, LatentScaling):
        return stats
    return LatentScaling(*(tuple(np.ravel(v).tolist()) for v in (stats.mean, stats.std)))


def choose_labels(mode: str, num_samples: int, num_classes: int, seed: int) -> np.ndarray:
    """Labels of samples 0..N-1, int32 [N].

    mode: "random" (uniform, as in the published numbers), "balanced" (0, 1, 2, ... in turn), or a
    comma-separated list, repeated to length. Raises ValueError for anything else.
    """
    if mode == "random":
        return np.random.default_rng(seed).integers(num_classes, size=num_samples, dtype=np.int32)
    if mode == "balanced":
        return np.arange(num_samples, dtype=np.int32) % num_classes
    try:
        given = np.array([int(part) for part in mode.split(",")], np.int32)
    except ValueError:
        raise ValueError(
            f"config.sample.labels is '{mode}'; expected 'random', 'balanced' or a list as "
            "'207,387'"
        ) from None
    if given.min() < 0 or given.max() >= num_classes:
        raise ValueError(
            f"config.sample.labels reach from {given.min()} to {given.max()}; "
            f"expected 0 to {num_classes - 1}"
        )
    return np.resize(given, num_samples)
