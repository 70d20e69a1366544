"""What the card's commands do on which devices, without a flag, and whether it fits.

    python -m benchmarks.plans                                     # the plans, in a minute
    python -m benchmarks.plans --compile --devices=v5e:4x4,h100:8  # and what compilers say

A row for every device and config, and with --compile one for sampling with dit_xl. Needs the extra
`tpu` for TPUs and `cuda` for GPUs; without one, its rows say so.
"""

import argparse
import dataclasses
import importlib
from typing import Any

from benchmarks.arguments import names
from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.inference.sampling.compile import sampler_report
from lightningdit_jax.parallel.topology import check_topology, open_slice
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.training.compile import compile_report
from lightningdit_jax.training.plan import training_plans

DEVICES = (
    *("v5e:1x1", "v5e:2x4", "v5e:4x4", "v5e:16x16", "v4:2x2x2", "v4:2x2x4", "v5p:2x2x1"),
    *("v5p:2x2x4", "v6e:2x4", "v6e:4x4", "tpu7x:2x2x1", "tpu7x:2x2x2", "h100:1", "h100:8"),
    "rtx4090:1",
)
CONFIGS = ("dit_b", "dit_xl", "dit_1p6b", "vavae_f16d32")
GIB = 2**30


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows asked for, printed as they come."""
    found = []
    for device in options.devices:
        check_topology(device)
        for name in options.configs:
            found.append({"device": device, "config": name} | _row(device, name, options.compile))
            print(_shown(found[-1]), flush=True)
            write_json(options.output, found)
    return found


def _row(device: str, name: str, compiles: bool) -> dict[str, Any]:
    sampling = name == "sampling"
    file = "dit_xl" if sampling else name
    config = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{file}").get_config()
    )
    try:
        if compiles:
            return (sampler_report if sampling else compile_report)(config, device)
        where = open_slice(device)
        hardware = dataclasses.replace(Hardware.of(where.devices), num_processes=1)
        plan = training_plans(config, hardware)[0][0]
    except (ValueError, ImportError) as error:
        return {"error": str(error)}
    return {
        "mesh": plan.mesh,
        "remat": plan.remat,
        "accumulate_steps": plan.accumulate_steps,
        "predicted_peak_bytes": plan.peak_bytes,
        "predicted_step_seconds": plan.seconds,
        "hbm_bytes": hardware.memory_bytes,
    }


def _shown(row: dict[str, Any]) -> str:
    label = f"| {row['device']} | {row['config']} |"
    if "error" in row:
        return f"{label} {row['error']} |"
    mesh = f"{row['mesh']['data']}, {row['mesh']['fsdp']}"
    if row["config"] == "sampling":
        plan = f"{row['batch_size']} images, decoded {row['decode_batch_size']} at once"
    else:
        plan = f"{row['remat']}, {row['accumulate_steps']}"
    peaks = [f"{row['predicted_peak_bytes'] / GIB:.1f}"]
    seconds = [
        f"{row[key]:.3f}" for key in ("predicted_step_seconds", "step_seconds") if key in row
    ]
    if "peak_bytes" in row:
        peaks.append(f"{row['peak_bytes'] / GIB:.1f}")
    memory = f"{', '.join(peaks)} of {row['hbm_bytes'] / GIB:.1f}"
    return f"{label} {mesh} | {plan} | {memory} | {', '.join(seconds)} |"


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=names, default=list(DEVICES))
    parser.add_argument("--configs", type=names, default=[*CONFIGS, "sampling"])
    parser.add_argument("--compile", action="store_true", help="takes minutes a row")
    parser.add_argument("--output", default="outputs/benchmarks/plans.json")
    options = parser.parse_args()
    if not options.compile:  # a sampler is planned where it is compiled
        options.configs = [name for name in options.configs if name != "sampling"]
    print("| devices | config | data, fsdp | remat, parts | GiB expected, compiled | s a step |")
    print("|" + "---|" * 6)
    rows(options)


if __name__ == "__main__":
    main()
