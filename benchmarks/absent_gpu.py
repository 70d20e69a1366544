"""Where a train step's time goes on a GPU that is not there, by ahead-of-time compilation.

    python -m benchmarks.absent_gpu
    python -m benchmarks.absent_gpu --gpus=a100:8 --config=vavae_f16d32 --batch-size=128

Needs the extra `cuda` and no GPU; a step of XL/1 takes minutes to compile. Every kernel is counted
with its products at the card's peak or its bytes at its memory's bandwidth. Of an H100 a second
column has the rates that one reached (docs/performance.md).
"""

import argparse
import importlib
from typing import Any

from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.parallel.topology import check_topology
from lightningdit_jax.training.compile import compile_report

# One H100 (SXM, 700 W), a step of XL/1 with 128 images: what the compiled program asks for by what
# the profiler measured. FLOP/s of products, 87.8 TFLOP in 126 ms, and of attention, 3.8 in 25;
# bytes/s of everything else, 156 GB in 61.
REACHED = {"products": 697e12, "attention": 152e12, "others": 2.56e12}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The report of the step, as compile_on."""
    config = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{options.config}").get_config()
    )
    config = config.changed(
        mesh={"data": -1, "fsdp": options.fsdp},
        model={"depth": options.depth},
        compute={"remat": options.remat},
        train={"batch_size": options.batch_size, "accumulate_steps": options.accumulate},
    )
    return compile_report(config, options.gpus)


def print_table(report: dict[str, Any]) -> None:
    """The kernels by kind, then the passes by the part of the code they come from."""
    reached = report["topology"].startswith("h100:")
    heads = ["", "kernels", "TFLOP", "GB", "least ms", *(["ms as reached"] if reached else [])]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    total = 0.0
    for kind, seconds in report["kernel_seconds"].items():
        flops, moved = report["kernel_flops"].get(kind, 0.0), report["kernel_bytes"][kind]
        row = [kind, f"{report['kernels'][kind]:,}", f"{flops / 1e12:.1f}", f"{moved / 1e9:.1f}"]
        row.append(f"{seconds * 1e3:.1f}")
        if reached:
            taken = flops / REACHED[kind] if flops else moved / REACHED["others"]
            total += taken
            row.append(f"{taken * 1e3:.1f}")
        print(f"| {' | '.join(row)} |")
    last = [f"{total * 1e3:.1f}"] if reached else []
    least = f"{report['estimated_seconds'] * 1e3:.1f}"
    print(f"| {' | '.join(['together', '', '', '', least, *last])} |")
    links, exposed = (
        f"{report[key] * 1e3:.1f}"
        for key in ("communication_seconds", "exposed_communication_seconds")
    )
    print(
        f"communication {links} ms, {exposed} exposed; "
        f"peak {report['peak_bytes'] / 2**30:.1f} of {report['hbm_bytes'] / 2**30:.1f} GiB; "
        f"matmul / model FLOPs {report['matmul_flops'] / report['model_flops']:.2f}"
    )
    print("\n| no products, of | least ms |\n|---|---|")
    for part, seconds in report["pass_seconds"].items():
        print(f"| {part} | {seconds * 1e3:.2f} |")


def main() -> None:
    """Prints the tables and writes the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", default="h100:1", help="as --topology of main.py")
    parser.add_argument("--config", default="dit_xl", help="a file of configs/")
    parser.add_argument("--batch-size", type=int, default=128, help="global")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--depth", type=int, help="default: the config's")
    parser.add_argument("--output", default="outputs/benchmarks/absent_gpu.json")
    options = parser.parse_args()
    check_topology(options.gpus)
    report = measure(options)
    print_table(report)
    write_json(options.output, report)


if __name__ == "__main__":
    main()
