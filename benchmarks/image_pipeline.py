"""How many images a second are read, decoded and cropped, and how that grows with workers.

    python -m benchmarks.image_pipeline

Makes a folder of JPEGs of 500x375, ImageNet's usual size, and reads batches from it as training
does: with threads of one process (config.data.num_threads) and with worker processes of one thread
(config.data.num_workers). All configurations are measured in turn, `--rounds` times; the table has
the medians. Images per CPU second do not depend on what else the machine does, images a second do:
the load is printed. Linux only.
"""

import argparse
import multiprocessing
import os
import pathlib
import platform
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import ImageFolder, ImageSource
from lightningdit_jax.data.pipeline import make_pipeline

RESOLUTION = 256
BATCH = 32


def write_images(folder: pathlib.Path, count: int) -> float:
    """Coarse colors with noise, JPEG quality 95, about as large as ImageNet's; mean bytes."""
    rng = np.random.default_rng(0)
    (folder / "class").mkdir(parents=True)
    paths = [folder / "class" / f"{i:05d}.jpg" for i in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels + rng.normal(0, 12, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return statistics.mean(path.stat().st_size for path in paths)


def cpu_seconds() -> float:
    """Used by this process and its workers so far."""
    used = 0.0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system
    return used


def measure(
    images: ImageSource,
    augment: str,
    threads: int,
    workers: int,
    seconds: float,
    shuffle: bool = True,
) -> dict[str, float]:
    """Images a second and per CPU second, after what was prefetched is used up."""
    source = ImageBatches(images, RESOLUTION, augment, threads)
    prefetch = 2 * max(threads, workers)
    iterator = iter(
        make_pipeline(
            source,
            global_batch_size=BATCH,
            seed=0,
            flip=True,
            shuffle=shuffle,
            num_threads=threads,
            num_workers=workers,
            prefetch_batches=prefetch,
        )
    )
    for _ in range(2 * prefetch + 2):
        next(iterator)
    began, cpu, read = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - began < seconds:
        next(iterator)
        read += BATCH
    took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    iterator.close()
    return {"images_per_second": read / took, "images_per_cpu_second": read / cpu}


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="", help="such as 1,2,4; default: up to all cores")
    parser.add_argument("--output", default="outputs/benchmarks/image_pipeline.json")
    options = parser.parse_args()
    cores = os.cpu_count()
    counts = [int(n) for n in options.workers.split(",") if n]
    counts = counts or sorted({min(2**i, cores) for i in range(cores.bit_length() + 1)})
    ways = [{"threads": n, "workers": 0} for n in counts]
    ways += [{"threads": 1, "workers": n} for n in counts]
    crops = ("random_crop", "center_crop")
    configurations = [{"augment": crop, **way} for crop in crops for way in ways]
    loads, rounds = [], []
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(pathlib.Path(folder), options.images)
        images = ImageFolder(folder)
        for _ in range(options.rounds):
            rounds.append([measure(images, **c, seconds=options.seconds) for c in configurations])
            loads.append(os.getloadavg()[0])
    results = [
        {**c, **{name: statistics.median(m[name] for m in measured) for name in measured[0]}}
        for c, measured in zip(configurations, zip(*rounds))
    ]
    print(f"{cores} cores, load {min(loads):.1f} to {max(loads):.1f}, JPEGs of {size / 1e3:.0f} kB")
    print("| crop | threads | workers | images/s | images/s per core | images per CPU second |")
    print("|---|---|---|---|---|---|")
    for r in results:
        rate, used = r["images_per_second"], max(r["threads"], r["workers"])
        print(
            f"| {r['augment']} | {r['threads']} | {r['workers'] or 'none'} | {rate:.0f} | "
            f"{rate / used:.0f} | {r['images_per_cpu_second']:.0f} |"
        )
    described = {
        "machine": platform.processor() or platform.machine(),
        "cores": cores,
        "load": loads,
        "image_bytes": size,
        "results": results,
    }
    write_json(options.output, described)


if __name__ == "__main__":
    main()
