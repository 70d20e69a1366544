"""Images -> latent shards in the published format, one row per image."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax.config import Config
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats, write_shard
from lightningdit_jax.inference.image_batches import (
    local_rows,
    open_image_batches,
    padded_batches,
    process_range,
)
from lightningdit_jax.inference.load import load_functional
from lightningdit_jax.inference.progress import Progress
from lightningdit_jax.inference.reconstruct import make_encoder
from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from lightningdit_jax.parallel.multihost import is_main_process


def extract(config: Config, workdir: str) -> epath.Path:
    """Encodes every image of config.data, and its mirror image, and returns the latents' folder.

    Each process writes its own shards; the statistics follow when all are there. Raises ValueError
    if the folder already holds shards.
    """
    folder = epath.Path(config.extract.path or epath.Path(workdir) / "latents")
    if folder.exists() and any(p.name.endswith(".safetensors") for p in folder.iterdir()):
        raise ValueError(f"{folder} already holds latents; delete them or set config.extract.path")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch_size(config.extract.batch_size, mesh, jax.process_count())
    source = open_image_batches(config, config.data.split)
    loaded = load_functional(
        config.extract.checkpoint or workdir,
        mesh,
        dtype=jnp.dtype(config.compute.dtype),
        expect="vavae",
    )
    encode = jax.jit(make_encoder(loaded.graphdef, config.seed), out_shardings=batch_sharding(mesh))
    writer = _ShardWriter(folder, jax.process_index(), config.extract.shard_size)
    start, stop = process_range(len(source))
    progress, done = Progress("extracted", stop - start, quiet=not is_main_process()), 0
    batches = padded_batches(
        source, len(source), config.extract.batch_size, config.tokenizer.resolution, mesh
    )
    for indices, labels, batch in batches:
        latents, flipped = encode(loaded.params, batch["images"], batch["indices"])
        writer.add(local_rows(latents, len(indices)), local_rows(flipped, len(indices)), labels)
        done += len(indices)
        progress.update(done)
    writer.close()
    multihost_utils.sync_global_devices("latents written")
    if is_main_process():
        save_stats(folder, compute_stats(LatentShards(folder)))
        print(f"latents and statistics in {folder}")
    multihost_utils.sync_global_devices("statistics written")
    return folder


class _ShardWriter:
    """Collects rows and writes a shard whenever it is full."""

    def __init__(self, folder: epath.Path, rank: int, shard_size: int):
        self._folder, self._rank, self._size = folder, rank, shard_size
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count = self._shards = 0

    def add(self, latents: np.ndarray, flipped: np.ndarray, labels: np.ndarray) -> None:
        self._rows.append((latents, flipped, labels))
        self._count += len(latents)
        while self._count >= self._size:
            self._write(self._size)

    def close(self) -> None:
        if self._count:
            self._write(self._count)

    def _write(self, count: int) -> None:
        latents, flipped, labels = (np.concatenate(part) for part in zip(*self._rows))
        write_shard(
            self._folder, self._rank, self._shards, latents[:count], flipped[:count], labels[:count]
        )
        self._rows = [(latents[count:], flipped[count:], labels[count:])]
        self._count -= count
        self._shards += 1
