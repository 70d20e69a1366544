"""What a GPU makes of the PyTorch release's train step: the other side of benchmarks/on_devices.py.

    python -m benchmarks.release_on_gpu --release=CHECKOUT
    python -m benchmarks.release_on_gpu --release=CHECKOUT --variants=XL/1 --batch-sizes=128

CHECKOUT is a clone of github.com/hustvl/LightningDiT, whose imports torch, timm, torchdiffeq and
fairscale are needed too. As its train.py on one GPU: bfloat16 autocast, its torch.compile
decorators, AdamW, average of the weights, the loss read every step; without its data and
DistributedDataParallel. Rows are those of on_devices.
"""

import argparse
import statistics
import sys
import time

import torch

from benchmarks.arguments import names, numbers
from benchmarks.release_model import release_generator, release_train_step
from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.configs import dit_xl_800ep
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.parallel.chips import GPUS


def seconds_per_step(variant: str, batch_size: int, options: argparse.Namespace) -> float:
    """Median over rounds. Raises torch.cuda.OutOfMemoryError."""
    torch.manual_seed(0)
    model = release_generator(variant, input_size=16, in_channels=32).cuda()
    x = torch.randn(batch_size, 32, 16, 16, device="cuda")
    step = release_train_step(model, x, torch.arange(batch_size, device="cuda") % 1000)
    model.forward = torch.autocast("cuda", torch.bfloat16)(model.forward)

    def run(steps: int) -> None:
        for _ in range(steps):
            step().item()
        torch.cuda.synchronize()

    run(3)
    taken = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        run(options.steps)
        taken.append((time.perf_counter() - began) / options.steps)
    return statistics.median(taken)


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", required=True, help="checkout of hustvl/LightningDiT")
    parser.add_argument("--variants", type=names, default=["XL/1", "B/1"])
    parser.add_argument("--batch-sizes", type=numbers, default=[64, 128, 192])
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="outputs/benchmarks/release_on_gpu.json")
    options = parser.parse_args()
    sys.path.insert(0, options.release)
    device = torch.cuda.get_device_name()
    chip = next((chip for name, chip in GPUS.items() if name in device.lower()), None)
    peak = chip and chip.peak_flops
    print(f"the release on {device}, torch {torch.__version__}")
    print("| variant | batch | images/s | TFLOP/s | MFU | GiB |")
    print("|" + "---|" * 6)
    rows = []
    for variant in options.variants:
        config = configs.from_dict(dit_xl_800ep.get_config()).changed(model={"variant": variant})
        for batch_size in options.batch_sizes:
            row = {"variant": variant, "batch_size": batch_size}
            rows.append(row)
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                seconds = seconds_per_step(variant, batch_size, options)
            except torch.cuda.OutOfMemoryError:
                print(f"| {variant} | {batch_size} | out of memory | | | |", flush=True)
                row["error"] = "out of memory"
                continue
            flops = 3 * forward_flops(generator_config(config)) * batch_size / seconds
            row |= {"seconds": seconds, "images_per_second": batch_size / seconds, "flops": flops}
            row["peak_bytes"] = torch.cuda.max_memory_allocated()
            row["mfu"] = peak and flops / peak
            print(
                f"| {variant} | {batch_size} | {row['images_per_second']:,.1f} | "
                f"{flops / 1e12:,.1f} | {f'{flops / peak:.3f}' if peak else 'unknown peak'} | "
                f"{row['peak_bytes'] / 2**30:.1f} |",
                flush=True,
            )
    write_json(options.output, {"device": device, "torch": torch.__version__, "train": rows})


if __name__ == "__main__":
    main()
