"""--mode=compile: the train step of a config compiled for TPUs that are not there."""

import json
import time

import jax
import jax.numpy as jnp
from etils import epath

from lightningdit_jax.config import Config
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.parallel.hlo_cost import program_cost
from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from lightningdit_jax.parallel.topology import COMPILER_OPTIONS, topology_devices
from lightningdit_jax.training.job import abstract_generator_job, generator_config
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready


def compile_train_step(config: Config, workdir: str, topology: str) -> dict:
    """Compiles the generator's train step for a slice and writes WORKDIR/compile_SLICE.json.

    Bytes, FLOPs and seconds are per device and step. The seconds are the compiler's cycle
    estimates over an assumed clock, without collectives: good for ranking variants on one slice,
    no prediction. Raises ValueError for another kind of config, a slice that does not exist, sizes
    that do not divide, and a step that needs more memory than the chip has.
    """
    if config.kind != "lightningdit":
        raise ValueError("--mode=compile takes a generator's config; tokenizers are not there yet")
    chip, devices = topology_devices(topology)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=devices)
    check_batch_size(config.train.batch_size, mesh, process_count=1)
    architecture = generator_config(config)
    _, step_fn, state = compile_ready(
        abstract_generator_job(config, mesh), config, mesh, make_optimizer(config.optimizer)
    )
    batch, split = config.train.batch_size, batch_sharding(mesh)
    side, channels = architecture.input_size, architecture.in_channels
    inputs = {
        "latents": jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32, sharding=split),
        "labels": jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
    }
    print(f"compiling for {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
    began = time.perf_counter()
    try:
        compiled = step_fn.lower(state, inputs).compile(compiler_options=COMPILER_OPTIONS)
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
    model_flops = 3 * forward_flops(architecture) * batch / len(devices)
    estimate = cost.cycles / chip.clock
    report = {
        "topology": topology,
        "num_devices": len(devices),
        "mesh": dict(mesh.shape),
        "variant": config.model.variant,
        "batch_size": batch,
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
    name = topology.replace(":", "_")
    path = epath.Path(workdir) / f"compile_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)
    for key, value in report.items():
        print(f"{key:20s} {value:.4g}" if isinstance(value, float) else f"{key:20s} {value}")
    return report
