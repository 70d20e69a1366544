"""Images -> latent shards in the published format, one row per image, resumable.

Shard s of process r holds a fixed range of images, and is written whole or not at all. So what is
there after a kill is right, and a restart makes what is missing, in the same batches as before: the
bits are those of a run that was never interrupted.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.config import Config
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats
from lightningdit_jax.inference.extraction.record import check_record, make_record
from lightningdit_jax.inference.extraction.shards import ShardWriter, missing_shards
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import (
    image_resolution,
    local_rows,
    padded_batches,
    process_range,
)
from lightningdit_jax.inference.reconstruct import make_encoder
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.mesh import check_batch_size
from lightningdit_jax.parallel.multihost import is_main_process
from lightningdit_jax.parallel.run_ahead import run_ahead
from lightningdit_jax.planning.mesh import inference_mesh
from lightningdit_jax.progress import Progress

# Indices and labels [b] of this process, latents of the global batch and of its mirror images.
Encoded = tuple[np.ndarray, np.ndarray, Any]


def extract(config: Config, workdir: str) -> epath.Path:
    """Encodes every image of config.data, and its mirror image, and returns the latents' folder.

    Each process writes its own shards; the statistics follow when all are there. A restart goes on
    where the last run ended. Raises ValueError if the folder holds latents made otherwise, or is
    not local or mounted, and as image_resolution, and FloatingPointError naming images whose
    latents are not finite as they are stored; no shard holds such latents.
    """
    options = config.extract
    folder = epath.Path(options.path or epath.Path(workdir) / "latents")
    if "://" in str(folder):
        raise ValueError(
            f"latents cannot be written to {folder}, since they are read through memory maps; set "
            "config.extract.path to a local or mounted (gcsfuse) folder"
        )
    mesh = inference_mesh(config.mesh)
    check_batch_size(options.batch_size, mesh, jax.process_count())
    loaded = load_functional(
        options.checkpoint or workdir,
        mesh,
        expect=Role.TOKENIZER,
        compute=config.compute,
    )
    resolution = image_resolution(options, loaded.as_tokenizer())
    source = open_image_batches(config, config.data.split, resolution)
    check_record(folder, make_record(config, loaded, source.source, resolution))
    encode = jit_batches(make_encoder(loaded.graphdef, config.seed), mesh)

    rank, (start, stop) = jax.process_index(), process_range(len(source))
    shards = missing_shards(folder, rank, start, stop, options.shard_size)
    ranges = list(shards.values())
    rows = options.batch_size // jax.process_count()
    writer = ShardWriter(folder, rank, shards, rows, options.dtype)
    todo = sum(stop - start for start, stop in ranges)
    progress, done = Progress("extracted", todo, quiet=not (is_main_process() and todo)), 0
    progress.compiling()

    def to_store(encoded: jax.Array, indices: np.ndarray) -> np.ndarray:
        """This process's rows in the type of the files, where finite is asked of them."""
        rows = local_rows(encoded, len(indices))
        with np.errstate(over="ignore"):  # said below
            stored = rows.astype(jnp.dtype(options.dtype), copy=False)
        finite = np.isfinite(stored).all(axis=(1, 2, 3))
        if not finite.all():
            names = [source.source.name(int(i)) for i in indices]
            advice = "the weights and the image are in order; try --config.compute.dtype=float32"
            if np.isfinite(rows).all():
                advice = f"{options.dtype} cannot hold them; set --config.extract.dtype=float32"
            check_finite(finite, names, "the latents", {"the tokenizer": loaded.params}, advice)
        return stored

    def encoded_batches() -> Iterator[Encoded]:
        batches = padded_batches(
            source, ranges, options.batch_size, resolution, mesh, config.data.num_workers
        )
        for indices, labels, batch in batches:
            yield indices, labels, encode(loaded.params, batch["images"], batch["indices"])

    def store(batch: Encoded) -> int:
        """The number of images."""
        indices, labels, encoded = batch
        writer.add(*(to_store(array, indices) for array in encoded), labels)
        return len(indices)

    for count in run_ahead(encoded_batches(), store):
        if count:  # otherwise padding, while other processes have images left
            done += count
            progress.update(done)
    writer.close()

    multihost_utils.sync_global_devices("latents written")
    if is_main_process():
        latents = LatentShards(folder)
        save_stats(folder, compute_stats(latents, options.stats_images or None))
        unreadable = len(source) - len(latents)
        left_out = f", {unreadable:,} unreadable images left out" if unreadable else ""
        print(f"{len(latents):,} latents and their statistics in {folder}{left_out}")
    multihost_utils.sync_global_devices("statistics written")
    return folder
