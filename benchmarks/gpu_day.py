"""All that is to be measured on a GPU, in one call: kernels, steps beside the release's, samples.

    python -m benchmarks.gpu_day --release=CHECKOUT --minutes=28
    python -m benchmarks.gpu_day --only=kernels,train --small              # does it run, anywhere

Each part is a program of its own, so that memory is free for the next and one that fails ends none
but itself; what they print is passed on as it comes, and each writes its JSON into --folder. Parts
for which time is no longer left are named. Needs the extra `cuda` (constraints.txt), and for the
rows of the release its checkout with torch, timm, torchdiffeq and fairscale; without --release
these are left out. The release's steps and ours are taken in turn, twice, on the same card.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

from benchmarks.arguments import names

Command = list[str]
# As on_devices says; --small is two narrow layers that a CPU can run.
_XL = ["--variants=XL/1", "--batch-sizes=128"]
_SMALL = ["--depth=2", "--variants=B/1", "--batch-sizes=2", "--steps=1", "--rounds=1"]
_SMALL_KERNELS = ["--rows=512", "--width=96", "--hidden=256", "--heads=4", "--calls=1"]
_SMALL_TOKENIZER = ["--size=32", "--batch-size=1", "--rounds=1", "--components=autoencoder"]


def parts(options: argparse.Namespace) -> dict[str, Command]:
    """Commands by part, the most wanted first."""
    train = ["benchmarks.on_devices", "train"]
    sample = ["benchmarks.on_devices", "sample", "--variants=XL/1", "--batch-sizes=64"]
    turn = [*train, *_XL, "--products=dtype,float8"]
    release = ["benchmarks.release_on_gpu", f"--release={options.release}", *_XL]
    accumulate = [*train, "--variants=XL/1", "--batch-sizes=1024", "--accumulate=8", "--steps=2"]
    tokenizer = ["benchmarks.tokenizer_step", "time", "--batch-size=16"]
    found = {
        "kernels": ["benchmarks.device_kernels"],
        "train": [*turn, "--profile"],
        "release": release,
        "train_again": turn,
        "release_again": release,
        "sample": [*sample, "--rounds=1"],
        "sample_ucgm": [*sample, "--recipe=xl_800ep_ucgm", "--rounds=2"],
        "accumulate": accumulate,
        "base": [*train, "--variants=B/1", "--batch-sizes=256,512"],
        "release_base": [*release[:2], "--variants=B/1", "--batch-sizes=256"],
        "tokenizer": tokenizer,
    }
    if options.small:
        points = ["--num-steps=4"]
        found = {
            "kernels": [*found["kernels"], *_SMALL_KERNELS],
            "train": [*train, *_SMALL, "--products=dtype,float8"],
            "accumulate": [*train, *_SMALL, "--batch-sizes=4", "--accumulate=2"],
            "sample": [*sample, *_SMALL, *points],
            "sample_ucgm": [*sample, *_SMALL, *points, "--recipe=xl_800ep_ucgm"],
            "tokenizer": [*tokenizer, *_SMALL_TOKENIZER],
        }
    if not options.release:
        found = {name: command for name, command in found.items() if "release" not in name}
    return {n: c for n, c in found.items() if not options.only or n in options.only}


def main() -> None:
    """Runs the parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", default="", help="checkout of hustvl/LightningDiT")
    parser.add_argument("--only", type=names, default=[], help="parts by name")
    parser.add_argument("--minutes", type=float, default=60.0, help="that all may take together")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the commands")
    parser.add_argument("--folder", default="outputs/benchmarks/gpu_day")
    options = parser.parse_args()
    folder, ends = pathlib.Path(options.folder), time.monotonic() + 60 * options.minutes
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".92"} | dict(os.environ)
    failed = []
    for name, command in parts(options).items():
        began = time.monotonic()
        if began >= ends:
            failed.append(f"{name} (no time left)")
            continue
        print(f"\n## {name}: python -m {' '.join(command)}", flush=True)
        full = [sys.executable, "-m", *command, f"--output={folder / name}.json"]
        try:
            code = subprocess.run(full, env=environment, timeout=ends - began).returncode
        except subprocess.TimeoutExpired:
            code = "time"
        if code:
            failed.append(f"{name} ({code})")
        print(f"{time.monotonic() - began:.0f} s", flush=True)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
