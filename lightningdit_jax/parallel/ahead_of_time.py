"""Programs compiled for accelerators that are not there, and what the compiler says of them."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.parallel.chips import GPU_SHARE
from lightningdit_jax.parallel.estimates import gpu_estimate, tpu_estimate
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.links import Network
from lightningdit_jax.parallel.out_of_memory import first_line, is_out_of_memory
from lightningdit_jax.parallel.timeline import program_timeline
from lightningdit_jax.parallel.topology import Slice

_GPU_OPTIONS: dict[str, str | bool] = {
    # XLA chooses between its own products and the libraries' by timing them, which takes a card.
    "xla_gpu_enable_triton_gemm": False,
    # In percent of the memory that JAX takes, 95 on a card. Without one XLA thinks it takes 80 %.
    "xla_gpu_memory_limit_slop_factor": str(round(95 * GPU_SHARE / 0.8)),
}


def compile_on(
    where: Slice,
    mesh: Mesh,
    lowered: jax.stages.Lowered,
    model_flops: float,
    components: Collection[str] = (),
    kernel_cycles: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compiles for a mesh of a slice: memory, arithmetic and communication of the program.

    model_flops: what the model asks for, by all devices together. In the report bytes, FLOPs and
    seconds are per device and run. estimated_seconds are those of the arithmetic, without
    collectives. communication_seconds are those of all collectives by public bandwidths,
    exposed_communication_seconds what no arithmetic runs beside (see Timeline and Network), and
    step_seconds both together; bound_by is what takes most of them. Estimates that rank variants
    on one slice, no measurements.

    Of a TPU estimated_seconds are the compiler's cycle estimates over an assumed clock;
    cycle_shares says what takes them, component_cycle_shares which of the components (scopes of the
    traced program), product_cycle_shares which of the products, by einsum, and product_utilization
    how much of the chip's peak each of those reaches. kernel_cycles: of kernels in Pallas, which
    have no such estimates, see tpu_estimate. Of a GPU they are a floor: of every kernel
    its products at the peak or its bytes at the memory's bandwidth. kernels, kernel_flops,
    kernel_bytes and kernel_seconds are by kind, pass_seconds of what is no product by the part of
    the code that asks for it, library_calls by name.

    Raises ValueError for a program that needs more memory than the chip has.
    """
    devices, chip = where.devices, where.chip
    began = time.perf_counter()
    compiled = _compiled(where, lowered)
    seconds = time.perf_counter() - began
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise ValueError(f"the compiler for {where.name} says nothing of its program")
    peak_bytes = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    if where.is_gpu:
        _check_gpu_memory(where, peak_bytes)
    module = Module.parse(text)
    if where.is_gpu:
        estimate = gpu_estimate(module, chip, text)
    else:
        estimate = tpu_estimate(module, chip, components, kernel_cycles)
    network = Network.of_mesh(mesh)
    assert network is not None  # of all slices
    timeline = program_timeline(module, network, estimate.seconds_of)
    step_seconds = estimate.seconds + timeline.exposed
    parts = {**estimate.parts, "communication": timeline.exposed}
    totals = estimate.totals
    model_flops /= len(devices)
    return {
        "topology": where.name,
        "num_devices": len(devices),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak_bytes,
        "hbm_bytes": chip.hbm_bytes,
        "model_flops": model_flops,
        "matmul_flops": totals.matmul_flops,
        **estimate.details,
        "collectives": dict(totals.collectives),
        "collectives_overlapped": {kind: n for kind, n in totals.overlapped.items() if n},
        "collective_bytes": dict(totals.collective_bytes),
        "estimated_seconds": estimate.seconds,
        "estimated_mfu": model_flops / (estimate.seconds * chip.peak_flops),
        "communication_seconds": timeline.communication,
        "exposed_communication_seconds": timeline.exposed,
        "step_seconds": step_seconds,
        "step_mfu": model_flops / (step_seconds * chip.peak_flops),
        "bound_by": max(parts, key=lambda part: parts[part]),
        "compile_seconds": seconds,
    }


def _compiled(where: Slice, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile(_GPU_OPTIONS) if where.is_gpu else lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(_does_not_fit(where, first_line(error))) from error


def _check_gpu_memory(where: Slice, peak_bytes: int) -> None:
    """Raises ValueError where a program needs more than JAX takes of a card."""
    whole = where.chip.hbm_bytes
    if peak_bytes > GPU_SHARE * whole:
        needs = f"it needs {peak_bytes / 2**30:.1f} GiB of {whole / 2**30:.1f}"
        raise ValueError(_does_not_fit(where, f"{needs}, of which JAX takes {GPU_SHARE:.0%}"))


def _does_not_fit(where: Slice, reason: str) -> str:
    return (
        f"the program does not fit into the memory of {where.name}: {reason}; try a "
        "larger --config.mesh.fsdp, another --config.compute.remat or a smaller batch"
    )


def write_report(report: dict[str, Any], path: epath.Path) -> None:
    """Writes a report as JSON, whole or not at all, and prints it."""
    write_json(path, report)
    for key, value in report.items():
        print(f"{key:22s} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
