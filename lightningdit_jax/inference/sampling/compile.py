"""--mode=compile --target=sample: the sampler of a config compiled for TPUs that are not there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from lightningdit_jax.assembly.kernel_schedule import kernel_cycles
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.assembly.registry import MODELS, abstract_model, compute_options
from lightningdit_jax.config import Config
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.plan import plan_sampler
from lightningdit_jax.inference.sampling.sampler import Structure, make_program
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.parallel.ahead_of_time import compile_on, write_report
from lightningdit_jax.parallel.mesh import batch_sharding, num_batch_shards
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.parallel.topology import open_slice
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.mesh import inference_mesh


def compile_sampler(config: Config, workdir: str, topology: str) -> dict[str, Any]:
    """Compiles config.sample for a slice and writes WORKDIR/compile_sample_SLICE.json.

    Returns what sampler_report does, and raises as it.
    """
    report = sampler_report(config, topology)
    name = f"compile_sample_{topology.replace(':', '_')}.json"
    write_report(report, epath.Path(workdir) / name)
    return report


def sampler_report(config: Config, topology: str) -> dict[str, Any]:
    """Memory, arithmetic and collectives of config.sample on a slice, as compile_on.

    One batch of it, from noise to pixels, with the generator of config.model and the tokenizer of
    config.tokenizer; no checkpoint is read. model_flops count the velocities that guidance needs,
    the program's matmul_flops the dearer side of every branch, guided steps all along. Raises
    ValueError as compile_on, for a slice that does not exist, for a tokenizer of other channels,
    for autoguidance and for a solver whose number of evaluations is not known.
    """
    dit_config, vae_config = generator_config(config), tokenizer_config(config)
    options, flow = config.sample, Flow(config.flow.path, config.flow.prediction)
    sampling = Sampling.of(options).for_latents(dit_config.latent_numbers)
    evaluations = sampling.forward_passes(flow)
    if options.weak_checkpoint or evaluations is None:
        raise ValueError(
            "--mode=compile --target=sample knows neither autoguidance nor solvers that choose "
            "their steps as they go; set config.sample.weak_checkpoint to '' and "
            f"config.sample.solver, which is '{options.solver}', to one that does not"
        )
    if config.model.in_channels != config.tokenizer.embed_dim:
        raise ValueError(
            f"config.model.in_channels is {config.model.in_channels}, config.tokenizer.embed_dim "
            f"{config.tokenizer.embed_dim}; set the keys of config.tokenizer to the tokenizer's"
        )
    where = open_slice(topology)
    mesh = inference_mesh(config.mesh, where.devices)
    compute = config.compute
    (dit, dit_params), (vae, vae_params) = (
        abstract_model(kind, network, **compute_options(kind, network, compute, mesh))
        for kind, network in (("lightningdit", dit_config), ("vavae", vae_config))
    )
    ones = (1.0,) * dit_config.in_channels
    scaling = LatentScaling(ones, ones)  # its numbers cost nothing
    structure = Structure(dit, vae, dit_config, scaling, flow)
    structure.fitted(sampling)
    weights = structure.weights(
        {
            "dit": abstract_on_mesh(dit_params, mesh, MODELS["lightningdit"].rules),
            "vae": abstract_on_mesh(vae_params, mesh, MODELS["vavae"].rules),
        }
    )
    tokenizer, hardware = nnx.merge(vae, vae_params), Hardware.of(where.devices)
    plan = plan_sampler(config, mesh, dit_config, tokenizer, weights)
    print(plan.line(hardware))
    shards = num_batch_shards(mesh)
    batch_size = -(-plan.batch_size // shards) * shards
    structure = dataclasses.replace(structure, decode_batch_size=plan.decode_batch_size)
    indices, labels = (
        jax.ShapeDtypeStruct((batch_size,), dtype, sharding=batch_sharding(mesh))
        for dtype in (jnp.uint32, jnp.int32)
    )
    knobs = {"seed": np.uint32(config.seed), **sampling.knobs(flow)}
    print(f"compiling for {where}, mesh {dict(mesh.shape)}")
    lowered = make_program(structure, sampling.method(), mesh).lower(
        weights, indices, labels, knobs
    )

    latent = jnp.zeros((1, dit_config.input_size, dit_config.input_size, dit_config.in_channels))
    decode = matmul_flops(lambda p, z: nnx.merge(vae, p).decode(z), vae_params, latent)
    forward = forward_flops(dit_config, aux_head=sampling.is_guided_internally)
    flops_per_image = evaluations * forward + decode
    return {
        "target": "sample",
        "variant": config.model.variant,
        "mesh": dict(mesh.shape),
        "batch_size": batch_size,
        "decode_batch_size": plan.decode_batch_size,
        "predicted_peak_bytes": plan.peak_bytes,
        "evaluations_per_image": evaluations,
        **compile_on(
            *(where, mesh, lowered, flops_per_image * batch_size),
            kernel_cycles=kernel_cycles(compute, dit_config, mesh, topology),
        ),
    }
