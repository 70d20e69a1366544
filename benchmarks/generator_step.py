"""What a train step of a generator costs on absent TPU slices or GPUs, by compiling it for them.

    python -m benchmarks.generator_step
    python -m benchmarks.generator_step --config=dit_1p6b --slices=v5p:2x2x4 --remat=dots

Needs the extra `tpu` (of GPUs `cuda`), on a machine without TPUs, one process at a time. What is
not given is planned, as training would (planning/). Rows are printed and written as soon as they
are there; a row takes minutes.
"""

import argparse
import importlib
from typing import Any

from benchmarks.arguments import names
from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.training.compile import compile_report

SLICES = (
    *("v5e:4x4", "v5e:16x16", "v4:2x2x2", "v4:2x2x4", "v5p:2x2x4", "v6e:4x4"),
    *("tpu7x:2x2x1", "tpu7x:2x2x2"),
)


def number(text: str) -> int | str:
    """A number, or "auto"."""
    return text if text == "auto" else int(text)


def measure(options: argparse.Namespace, topology: str) -> dict[str, Any]:
    """The report of one slice, or why there is none."""
    config = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{options.config}").get_config()
    )
    changes = {
        "mesh": {"fsdp": options.fsdp},
        "model": {"depth": options.depth},
        "compute": {
            "remat": options.remat,
            "attention": options.attention,
            "scan_unroll": options.unroll,
        },
        "train": {
            "batch_size": options.batch_size,
            "accumulate_steps": options.accumulate,
        },
    }
    asked = {"topology": topology, "unroll": options.unroll, **changes}
    try:
        return {"asked": asked, **compile_report(config.changed(**changes), topology)}
    except ValueError as error:  # does not fit
        return {"asked": asked, "error": str(error)}


def row(report: dict[str, Any]) -> str:
    """A line of the table."""
    if "error" in report:
        return f"| {report['asked']['topology']} | {report['error']} |"
    mesh, parts = report["mesh"], report["accumulate_steps"]
    label = (
        f"| {report['topology']} | {mesh['data']}, {mesh['fsdp']} | {report['remat']} | {parts} |"
    )
    shares = [f"{100 * share:.0f} % {kind}" for kind, share in report["cycle_shares"].items()]
    milliseconds = report["estimated_seconds"] * 1e3
    gathered = sum(report["collective_bytes"].values()) / 2**30
    overlapped = sum(report["collectives_overlapped"].values())
    communication, exposed, step = (
        f"{report[key] * 1e3:.0f}"
        for key in ("communication_seconds", "exposed_communication_seconds", "step_seconds")
    )
    return (
        f"{label} {report['predicted_peak_bytes'] / 2**30:.1f}, "
        f"{report['peak_bytes'] / 2**30:.1f} of {report['hbm_bytes'] / 2**30:.0f} | "
        f"{report['matmul_flops'] / report['model_flops']:.2f} | {milliseconds:.0f} | "
        f"{milliseconds * report['estimated_mfu']:.0f} | {report['estimated_mfu']:.2f} | "
        f"{', '.join(shares)} | {sum(report['collectives'].values())}, {overlapped} overlapped, "
        f"{gathered:.1f} GiB | {communication}, {exposed} exposed | {step} | "
        f"{report['step_mfu']:.2f} | {report['bound_by']} | {report['compile_seconds']:.0f} |"
    )


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="dit_xl", help="a file of configs/")
    parser.add_argument("--slices", type=names, default=list(SLICES))
    parser.add_argument("--batch-size", type=int, default=1024, help="global")
    parser.add_argument("--fsdp", type=number, default="auto")
    parser.add_argument("--remat", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--accumulate", type=number, default="auto")
    parser.add_argument("--depth", type=int, help="default: the config's")
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--output", default="outputs/benchmarks/generator_step.json")
    options = parser.parse_args()
    reports = []
    print(
        "| slice | data, fsdp | remat | parts | GiB expected, compiled | matmul / model FLOPs | "
        "est. ms | ideal ms | est. MFU | cycles | collectives | communication ms | step ms | "
        "step MFU | bound by | compile s |"
    )
    print("|" + "---|" * 16)
    for topology in options.slices:
        reports.append(measure(options, topology))
        print(row(reports[-1]), flush=True)
        write_json(options.output, reports)


if __name__ == "__main__":
    main()
