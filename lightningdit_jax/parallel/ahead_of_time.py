"""Programs compiled for a TPU slice that is not there, and what the compiler says of them."""

import time
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.parallel.hlo_cost import program_cost
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.timeline import program_timeline
from lightningdit_jax.parallel.topology import Slice


def compile_on(
    where: Slice, mesh: Mesh, lowered: jax.stages.Lowered, model_flops: float
) -> dict[str, Any]:
    """Compiles for a mesh of a slice: memory, arithmetic and communication of the program.

    model_flops: what the model asks for, by all devices together. In the report bytes, FLOPs and
    seconds are per device and run. estimated_seconds are the compiler's cycle estimates over an
    assumed clock, without collectives; cycle_shares says what takes them, product_cycle_shares
    which of the products, by einsum, and product_utilization how much of the chip's peak each of
    those reaches. communication_seconds are those of all collectives by public bandwidths,
    exposed_communication_seconds what no arithmetic runs beside (see Timeline and Network), and
    step_seconds both together; bound_by is what takes most of them. Estimates that rank variants
    on one slice, no measurements. Raises ValueError for a program that needs more memory than the
    chip has.
    """
    devices, chip = where.devices, where.chip
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)
        raise ValueError(
            f"the program does not fit into the memory of {where.name}: {reason[:300]}; try a "
            "larger --config.mesh.fsdp, another --config.compute.remat or a smaller batch"
        ) from error
    seconds = time.perf_counter() - began
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise ValueError(f"the compiler for {where.name} says nothing of its program")
    module = Module.parse(text)
    cost = program_cost(module)
    timeline = program_timeline(module, where.network(mesh), chip.clock)
    estimate = cost.total_cycles / chip.clock
    step_seconds = estimate + timeline.exposed
    parts = {kind: cycles / chip.clock for kind, cycles in cost.cycles.items()}
    parts["communication"] = timeline.exposed
    model_flops /= len(devices)
    return {
        "topology": where.name,
        "num_devices": len(devices),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "hbm_bytes": chip.hbm_bytes,
        "model_flops": model_flops,
        "matmul_flops": cost.matmul_flops,
        "product_utilization": {
            einsum or "others": flops / (cost.product_cycles[einsum] / chip.clock * chip.peak_flops)
            for einsum, flops in cost.product_flops.most_common()
            if cost.product_cycles[einsum]
        },
        "product_cycle_shares": {
            einsum or "others": cycles / cost.total_cycles
            for einsum, cycles in cost.product_cycles.most_common()
        },
        "collectives": dict(cost.collectives),
        "collectives_overlapped": {kind: n for kind, n in cost.overlapped.items() if n},
        "collective_bytes": dict(cost.collective_bytes),
        "estimated_seconds": estimate,
        "estimated_mfu": model_flops / (estimate * chip.peak_flops),
        "cycle_shares": {
            kind: cycles / cost.total_cycles for kind, cycles in cost.cycles.most_common()
        },
        "communication_seconds": timeline.communication,
        "exposed_communication_seconds": timeline.exposed,
        "step_seconds": step_seconds,
        "step_mfu": model_flops / (step_seconds * chip.peak_flops),
        "bound_by": max(parts, key=lambda part: parts[part]),
        "compile_seconds": seconds,
    }


def write_report(report: dict[str, Any], path: epath.Path) -> None:
    """Writes a report as JSON, whole or not at all, and prints it."""
    write_json(path, report)
    for key, value in report.items():
        print(f"{key:22s} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
