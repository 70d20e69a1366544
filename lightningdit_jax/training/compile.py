"""--mode=compile: the train step of a config compiled for TPUs that are not there."""

import dataclasses
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.parallel.hlo_cost import program_cost
from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from lightningdit_jax.parallel.topology import COMPILER_OPTIONS, topology_devices
from lightningdit_jax.training.frozen import abstract_frozen_networks
from lightningdit_jax.training.job import (
    Job,
    abstract_generator_job,
    abstract_tokenizer_job,
    generator_config,
)
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from lightningdit_jax.training.vae_flops import vae_step_flops


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is compiled: a job without data, its batch, its FLOPs per image and its name."""

    job: Job
    batch: dict[str, jax.ShapeDtypeStruct]
    flops_per_image: float
    variant: str


def compile_train_step(config: Config, workdir: str, topology: str) -> dict[str, Any]:
    """Compiles the config's train step for a slice and writes WORKDIR/compile_SLICE.json.

    A tokenizer's step has every loss of the config; frozen networks whose path is empty are the
    published ones, without their weights. Returns what compile_report does, and raises as it.
    """
    report = compile_report(config, topology)
    path = epath.Path(workdir) / f"compile_{topology.replace(':', '_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)
    for key, value in report.items():
        print(f"{key:20s} {value:.4g}" if isinstance(value, float) else f"{key:20s} {value}")
    return report


def compile_report(config: Config, topology: str) -> dict[str, Any]:
    """Memory, arithmetic and collectives of the config's train step on a slice.

    Bytes, FLOPs and seconds are per device and step. The seconds are the compiler's cycle
    estimates over an assumed clock, without collectives: good for ranking variants on one slice,
    no prediction. model_flops are those that the loss asks for (forward_flops, vae_step_flops),
    matmul_flops those in the program. Raises ValueError for a slice that does not exist, sizes
    that do not divide, and a step that needs more memory than the chip has.
    """
    chip, devices = topology_devices(topology)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=devices)
    check_batch_size(config.train.batch_size, mesh, process_count=1)
    subject = (_generator if config.kind == "lightningdit" else _tokenizer)(config, mesh)
    _, step_fn, state = compile_ready(subject.job, config, mesh, make_optimizer(config.optimizer))
    print(f"compiling for {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
    began = time.perf_counter()
    try:
        lowered = step_fn.lower(state, subject.batch, *subject.job.frozen)
        compiled = lowered.compile(compiler_options=COMPILER_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)
        raise ValueError(
            f"the step does not fit into the memory of {topology}: {reason[:300]}; try a larger "
            "--config.mesh.fsdp, --config.compute.remat=block or a smaller batch"
        ) from error
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    cost = program_cost(compiled.as_text())
    model_flops = subject.flops_per_image * config.train.batch_size / len(devices)
    estimate = cost.cycles / chip.clock
    return {
        "topology": topology,
        "num_devices": len(devices),
        "mesh": dict(mesh.shape),
        "variant": subject.variant,
        "batch_size": config.train.batch_size,
        "remat": config.compute.remat,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "hbm_bytes": chip.hbm_bytes,
        "model_flops": model_flops,
        "matmul_flops": cost.matmul_flops,
        "collectives": dict(cost.collectives),
        "estimated_seconds": estimate,
        "estimated_mfu": model_flops / (estimate * chip.peak_flops),
        "compile_seconds": seconds,
    }


def _generator(config: Config, mesh: Mesh) -> Subject:
    architecture = generator_config(config)
    batch, split = config.train.batch_size, batch_sharding(mesh)
    side, channels = architecture.input_size, architecture.in_channels
    inputs = {
        "latents": jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32, sharding=split),
        "labels": jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
    }
    flops = 3 * forward_flops(architecture)
    return Subject(abstract_generator_job(config, mesh), inputs, flops, config.model.variant)


def _tokenizer(config: Config, mesh: Mesh) -> Subject:
    tokenizer, split = config.tokenizer, batch_sharding(mesh)
    shape = (config.train.batch_size, *[tokenizer.resolution] * 2, tokenizer.in_channels)
    inputs = {"images": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split)}
    flops = sum(vae_step_flops(config, abstract_frozen_networks(config, mesh)).values())
    variant = f"f{2 ** (len(tokenizer.ch_mult) - 1)}d{tokenizer.embed_dim}"
    return Subject(abstract_tokenizer_job(config, mesh), inputs, flops, variant)
