"""Latents a second from disk to a training batch: this pipeline, a memory copy, the release.

    python -m benchmarks.latent_pipeline
    python -m benchmarks.latent_pipeline --release=CHECKOUT     # needs torch

Writes random latents of the published size (16x16x32 float32, 32 KB) and reads shuffled, flipped
batches: with Grain threads of one process, from shards of float32 and bfloat16 and from memory;
with the release's dataset and DataLoader, which normalize too (a clone of
github.com/hustvl/LightningDiT; its own process and worker processes); from ArrayRecord files, raw
and by the batch; and, as a floor, copies memory of the same size in blocks of a record from random
places. `normalized` adds what the train step does on the device: here the same two cores. All in
turn, `--rounds` times, files in the page cache; the table has the medians. The machine's load is
printed.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from array_record.python import array_record_module

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.data.latents import (
    LatentShards,
    compute_stats,
    load_stats,
    save_stats,
    write_shard,
)
from lightningdit_jax.data.pipeline import Batch, LatentBatches, make_pipeline

BATCH = 256
SHAPE = (16, 16, 32)


def write_latents(folder: str, count: int, dtype: str = "float32") -> None:
    """Shards of 2,500."""
    rng = np.random.default_rng(0)
    for shard, first in enumerate(range(0, count, 2500)):
        rows = min(2500, count - first)
        latents = rng.standard_normal((rows, *SHAPE), np.float32)
        write_shard(folder, 0, shard, latents, latents[::-1], np.arange(rows) % 1000, dtype)
    save_stats(folder, compute_stats(LatentShards(folder), 1000))


def ours(folder: str, threads: int, resident: bool = False) -> Iterator[Batch]:
    """Batches of the training pipeline."""
    pipeline = make_pipeline(
        LatentBatches(LatentShards(folder, resident)),
        global_batch_size=BATCH,
        seed=0,
        flip=True,
        num_threads=threads,
        prefetch_batches=2 * threads,
    )
    yield from pipeline


def read_alone(folder: str) -> Iterator[int]:
    """Batches as the pipeline's source reads them, without threads, order or flips."""
    source, rng = LatentBatches(LatentShards(folder)), np.random.default_rng(0)
    while True:
        indices = rng.integers(len(source), size=BATCH)
        yield len(source.read_batch(indices, indices % 2 == 0)["labels"])


def counted(batches: Iterable[Batch]) -> Iterator[int]:
    """Their sizes."""
    for batch in batches:
        yield len(batch["labels"])


def normalized(folder: str, threads: int) -> Iterator[int]:
    """Batches on the device, as the train step makes them there."""
    stats = load_stats(folder)
    on_device = jax.jit(stats.normalize)
    for batch in ours(folder, threads):
        yield len(jax.block_until_ready(on_device(batch["latents"])))


def array_record(folder: str) -> Iterator[int]:
    """The same latents in one ArrayRecord file, a record each, read by the batch."""
    path = pathlib.Path(folder) / "latents.array_record"
    count = len(LatentShards(folder))
    if not path.exists():
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for latent in LatentShards(folder).read_stored(np.arange(count), np.zeros(count, bool)):
            writer.write(latent.tobytes())
        writer.close()
    reader, rng = array_record_module.ArrayRecordReader(str(path)), np.random.default_rng(0)
    shape = LatentShards(folder).read_stored(np.arange(1), np.zeros(1, bool)).shape[1:]
    while True:
        records = reader.read(rng.integers(count, size=BATCH).tolist())
        latents = np.stack([np.frombuffer(record, np.float32) for record in records])
        yield len(latents.reshape(-1, *shape))


def copies(folder: str) -> Iterator[int]:
    """Records copied from random places of memory that is as large as the files."""
    shards = LatentShards(folder)
    source = np.ones((len(shards), *SHAPE), np.float32)  # zeros would share one page
    batch, rng = np.empty((BATCH, *SHAPE), np.float32), np.random.default_rng(0)
    while True:
        np.take(source, rng.integers(len(source), size=BATCH), axis=0, out=batch, mode="clip")
        yield BATCH


def release(checkout: str, folder: str, workers: int) -> Iterator[int]:
    """Batches of the release's loader, endlessly."""
    sys.path.insert(0, checkout)
    import torch
    from datasets.img_latent_dataset import ImgLatentDataset

    stats = load_stats(folder)
    cache = pathlib.Path(folder) / "latents_stats.pt"
    tensors = {k: torch.tensor(getattr(stats, k)).reshape(1, -1, 1, 1) for k in ("mean", "std")}
    torch.save(tensors, cache)
    # Its glob takes every .safetensors file of the folder for a shard.
    (pathlib.Path(folder) / "latents_stats.safetensors").rename(cache.with_suffix(".kept"))
    try:
        dataset = ImgLatentDataset(folder)
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True
        )
        while True:
            for latents, _ in loader:
                yield len(latents)
    finally:
        cache.with_suffix(".kept").rename(pathlib.Path(folder) / "latents_stats.safetensors")


def rate(make: Callable[[], Iterator[int]], seconds: float) -> float:
    """Records a second once it runs."""
    iterator = make()
    for _ in range(8):
        next(iterator)
    began, read = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        read += next(iterator)
    took = time.perf_counter() - began
    iterator.close()
    return read / took


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", help="checkout of the PyTorch release")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="outputs/benchmarks/latent_pipeline.json")
    options = parser.parse_args()
    cores = os.cpu_count()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as halves:
        write_latents(folder, options.count)
        write_latents(halves, options.count, "bfloat16")
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "copy of the same memory": lambda: copies(folder),
            "reading alone": lambda: read_alone(folder),
            "this pipeline, 1 thread": lambda: counted(ours(folder, 1)),
            f"this pipeline, {cores} threads": lambda: counted(ours(folder, cores)),
            "the same, bfloat16": lambda: counted(ours(halves, cores)),
            "the same, data.resident": lambda: counted(ours(folder, cores, True)),
            "the same, normalized": lambda: normalized(folder, cores),
            "ArrayRecord by the batch": lambda: array_record(folder),
        }
        if options.release:
            ways["the release, own process"] = lambda: release(options.release, folder, 0)
            name = f"the release, {cores} worker processes"
            ways[name] = lambda: release(options.release, folder, cores)
        loads, rounds = [], []
        for _ in range(options.rounds):
            rounds.append({name: rate(make, options.seconds) for name, make in ways.items()})
            loads.append(os.getloadavg()[0])
    results = {name: statistics.median(r[name] for r in rounds) for name in ways}
    print(f"{cores} cores, load {min(loads):.1f} to {max(loads):.1f}")
    print("| | latents/s | microseconds each |")
    print("|---|---|---|")
    for name, value in results.items():
        print(f"| {name} | {value:,.0f} | {1e6 / value:.1f} |")
    described = {"cores": cores, "load": loads, "latents_per_second": results}
    write_json(options.output, described)


if __name__ == "__main__":
    main()
