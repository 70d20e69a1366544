"""Labels -> images on a mesh: one program for the whole solver loop and the decoder."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.flow.guidance import (
    ConditionalVelocityFn,
    TwoVelocitiesFn,
    guide,
    guide_internally,
)
from lightningdit_jax.flow.guidance_rules import Projection
from lightningdit_jax.flow.paths import Path, get_path
from lightningdit_jax.flow.predictions import Flow, to_velocity
from lightningdit_jax.flow.runge_kutta import euler_with_memory
from lightningdit_jax.flow.sde import sample_noise
from lightningdit_jax.flow.solver import Problem
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.inference.finite import check_finite, rows_are_finite
from lightningdit_jax.inference.sampling.options import Method, Sampling
from lightningdit_jax.inference.sampling.velocity import velocity
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.pixels import to_uint8
from lightningdit_jax.models.weight_types import as_used
from lightningdit_jax.parallel.mesh import (
    BATCH_AXES,
    batch_sharding,
    num_batch_shards,
    replicated,
)
from lightningdit_jax.parallel.multihost import to_host
from lightningdit_jax.parallel.run_ahead import run_ahead
from lightningdit_jax.parallel.topology import compiler_options

_NETWORKS = {"dit": "the generator", "vae": "the tokenizer", "weak": "the weak generator"}
# What a program says of its rows, and why one may not be finite though all weights are.
_ADVICE = {
    "latents": "drawn by {}, with guidance that is too strong, or no step of dopri5 is small "
    "enough; choose another solver or a lower cfg_scale",
    "pixels": "the latents are finite, but too large for the tokenizer; are the latent statistics "
    "those that the generator was trained with?",
}


@dataclasses.dataclass(frozen=True)
class Structure:
    """What is compiled: architectures without weights. Hashable.

    flow: of the generator. weak: a worse generator of the same flow for autoguidance, None for
    guidance by the null label. decode_batch_size: images that a device decodes at once, since a
    decoder's activations are as large as many latents. Raises ValueError for a scaling of other
    channels.
    """

    dit: nnx.GraphDef
    vae: nnx.GraphDef
    config: LightningDiTConfig
    scaling: LatentScaling
    flow: Flow = Flow()  # noqa: RUF009 (frozen)
    weak: nnx.GraphDef | None = None
    decode_batch_size: int = 16

    def __post_init__(self):
        self.scaling.check_channels(self.config.in_channels, "the generator")

    def weights(self, networks: Mapping[str, Any]) -> dict[str, Any]:
        """What a program takes: parameters by name, cast once (models.weight_types), not each time.

        networks: as loaded or trained, "dit", "vae" and with autoguidance "weak", or
        ShapeDtypeStructs.
        """
        return {name: as_used(getattr(self, name), params) for name, params in networks.items()}

    def fitted(self, sampling: Sampling) -> Sampling:
        """For this generator's latents. Raises ValueError for guidance by what it does not have."""
        has_null_class = self.config.num_labels > self.config.num_classes
        if sampling.is_guided and not has_null_class and self.weak is None:
            raise ValueError(
                f"cfg_scale is {sampling.cfg_scale}, but the generator was trained with "
                "class_dropout_prob 0 and has no null class to guide by; set cfg_scale to 1, or "
                "guide against a weak generator (autoguidance)"
            )
        if sampling.is_guided_internally and not self.config.aux_head_depth:
            raise ValueError(
                f"ig_scale is {sampling.ig_scale}, but the generator has no second head to guide "
                "by (its model.aux_head_depth is 0); set ig_scale to 1, or take a generator that "
                "was trained with one"
            )
        return sampling.for_latents(self.config.latent_numbers)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Generator, tokenizer and their weights on a mesh, ready to draw samples.

    weights: as structure.weights gives them. batch_size: images of all devices at once, rounded up
    to fill the mesh. class_names: of the generator's classes by
    number, empty where its checkpoint does not know them.
    """

    structure: Structure
    weights: dict[str, Any]
    mesh: Mesh
    batch_size: int
    class_names: tuple[str, ...] = ()

    def generator_flops(self, sampling: Sampling) -> float | None:
        """Matmul FLOPs of all velocities of an image; None: the solver finds their number."""
        structure = self.structure
        evaluations, guided = sampling.evaluations(), sampling.guided_evaluations(structure.flow)
        if evaluations is None or guided is None:
            return None
        ours = forward_flops(structure.config, aux_head=sampling.is_guided_internally)
        if structure.weak is None:
            return (evaluations + guided) * ours
        weak = nnx.merge(structure.weak, self.weights["weak"])
        return evaluations * ours + guided * forward_flops(weak.config)

    def batches(
        self,
        indices: np.ndarray,
        labels: np.ndarray,
        sampling: Sampling,
        *,
        seed: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (global indices [b], images [b, H, W, 3] uint8 on the host), in order.

        indices, labels: [N]. Sample i is a function of (seed, indices[i], labels[i]) alone; seed
        and indices are below 2**32.
        The last batch is padded, the padding dropped.
        The device draws the next batch while the caller handles one. Raises FloatingPointError
        naming the samples whose latents, or whose pixels, are not finite, and ValueError as
        Structure.fitted.
        """
        sampling = self.structure.fitted(sampling)
        shards = num_batch_shards(self.mesh)
        batch_size = -(-min(self.batch_size, len(labels)) // shards) * shards
        program = make_program(self.structure, sampling.method(), self.mesh)
        knobs = {"seed": np.uint32(seed), **sampling.knobs(self.structure.flow)}
        split = batch_sharding(self.mesh)

        def start(first: int) -> tuple[np.ndarray, tuple]:
            chosen = indices[first : first + batch_size]
            rows = [
                np.resize(a[first : first + batch_size], batch_size).astype(dtype)
                for a, dtype in ((indices, np.uint32), (labels, np.int32))
            ]
            return chosen, program(self.weights, *jax.device_put(rows, split), knobs)

        def finish(started: tuple[np.ndarray, tuple]) -> tuple[np.ndarray, np.ndarray]:
            chosen, outputs = started
            images, finite = to_host(outputs)
            names = [f"sample {index}" for index in chosen]
            weights = {_NETWORKS[name]: params for name, params in self.weights.items()}
            for what, advice in _ADVICE.items():
                rows = finite[what][: len(chosen)]
                check_finite(rows, names, f"the {what}", weights, advice.format(sampling.solver))
            return chosen, images[: len(chosen)]

        yield from run_ahead(map(start, range(0, len(indices), batch_size)), finish, depth=1)


def initial_noise(seed: Any, indices: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Standard normal noise of samples by their global index. indices [B] -> [B, *shape].

    A function of (seed, index) alone: batch size and devices change nothing.
    """
    return draw_samples(jax.random.normal, seed, indices, shape)


@functools.lru_cache(maxsize=8)
def make_program(structure: Structure, method: Method, mesh: Mesh) -> jax.stages.Wrapped:
    """program(weights, indices [B], labels [B], knobs) -> (images [B, H, W, 3] uint8, finite).

    Compiled once per set of arguments, batch size and grid length. knobs: Sampling.knobs and the
    seed. finite: bool [B] of "latents" and of "pixels", before they become uint8. Indices and
    labels are cut over the mesh, images come back replicated. Without guidance only conditional
    velocities are computed.
    """
    config = structure.config
    latent_shape = (config.input_size, config.input_size, config.in_channels)
    split = batch_sharding(mesh)

    @functools.partial(
        jax.jit,
        in_shardings=(None, split, split, None),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(mesh),
    )
    def program(weights: dict, indices: jax.Array, labels: jax.Array, knobs: dict) -> tuple:
        weak = None
        if structure.weak is not None:
            weak = _velocity_fn(structure.weak, weights["weak"], structure.flow)
        model: ConditionalVelocityFn = _velocity_fn(structure.dit, weights["dit"], structure.flow)
        if method.guided_internally:
            model = guide_internally(
                _two_velocities_fn(structure.dit, weights["dit"], structure.flow),
                ig_scale=knobs["ig_scale"],
                interval_start=knobs["ig_interval"][0],
                interval_end=knobs["ig_interval"][1],
            )
        path = get_path(structure.flow.path)
        velocity_fn = guide(
            model,
            labels,
            config.num_classes,
            cfg_scale=knobs["cfg_scale"] if method.guided else 1,
            cfg_channels=method.cfg_channels or None,
            interval_start=knobs["interval"][0],
            interval_end=knobs["interval"][1],
            weak_velocity_fn=weak,
            schedule=method.cfg_schedule,
            schedule_power=knobs["cfg_power"],
            optimized_scale=method.cfg_optimized_scale,
            projection=_projection(path, method, knobs),
        )
        x, grid = initial_noise(knobs["seed"], indices, latent_shape), knobs["grid"]
        if method.remembers:
            memory = jnp.zeros_like(x[..., : method.cfg_channels or None])
            latents = euler_with_memory(velocity_fn.with_memory, x, memory, grid)
        else:
            noise_fn = sample_noise(knobs["seed"], indices, latent_shape)
            problem = Problem(velocity_fn, path, noise_fn)
            latents = SOLVERS[method.solver].integrate(problem, x, grid, **dict(method.options))
        z = structure.scaling.invert(latents)
        images, finite = _decode(structure, weights["vae"], z, mesh)
        return images, {"latents": rows_are_finite(latents), "pixels": finite}

    return program


def _projection(path: Path, method: Method, knobs: dict) -> Projection | None:
    if not method.projected:
        return None
    return Projection(
        path,
        knobs["apg_eta"],
        knobs["apg_norm_threshold"] if method.limited else None,
        knobs["apg_momentum"] if method.remembers else None,
    )


def _velocity_fn(graphdef: nnx.GraphDef, params: Any, flow: Flow) -> ConditionalVelocityFn:
    return lambda x, t, y: velocity(nnx.merge(graphdef, params), x, t, y, flow)


def _two_velocities_fn(graphdef: nnx.GraphDef, params: Any, flow: Flow) -> TwoVelocitiesFn:
    def velocities_fn(x: jax.Array, t: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = nnx.merge(graphdef, params).with_aux_head(x, t, y)
        path = get_path(flow.path)
        strong, weak = (to_velocity(path, flow.prediction, output, x, t) for output in outputs)
        return strong, weak

    return velocities_fn


def _decode(
    structure: Structure, params: Any, latents: jax.Array, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Latents [B, h, w, C] -> images [B, H, W, 3] uint8 and whether each was finite, bool [B].

    Some rows of each device at a time.
    """

    def decode(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        decoded = nnx.merge(structure.vae, params).decode(z)
        return to_uint8(decoded), rows_are_finite(decoded)

    shards = num_batch_shards(mesh)
    each = len(latents) // shards
    most = structure.decode_batch_size
    parts = next(p for p in range(1, each + 1) if each % p == 0 and each // p <= most)
    if parts == 1:
        return decode(latents)
    # The device's own rows stay on it: [devices, parts, rows] with the devices in front.
    by_part = latents.reshape(shards, parts, each // parts, *latents.shape[1:]).swapaxes(0, 1)
    rows = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    by_part = jax.lax.with_sharding_constraint(by_part, rows)
    outputs = jax.lax.map(lambda z: decode(z.reshape(-1, *latents.shape[1:])), by_part)

    def in_order(x: jax.Array) -> jax.Array:
        """[parts, devices * rows, ...] -> [B, ...]."""
        x = x.reshape(parts, shards, each // parts, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(len(latents), *x.shape[3:])

    return jax.tree.map(in_order, outputs)
