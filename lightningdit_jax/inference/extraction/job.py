"""Images -> latent shards in the published format, one row per image, resumable.

Shard s of process r holds a fixed range of images, and is written whole or not at all. So what is
there after a kill is right, and a restart makes what is missing, in the same batches as before: the
bits are those of a run that was never interrupted.
"""

import jax
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.loading import abstract_functional, load_functional
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.assembly.teacher import FEATURES
from lightningdit_jax.config import Config
from lightningdit_jax.data.latents import LatentShards, compute_stats, save_stats
from lightningdit_jax.errors import counted
from lightningdit_jax.inference.extraction.features import open_features, write_features
from lightningdit_jax.inference.extraction.record import check_record, make_record
from lightningdit_jax.inference.extraction.shard_pass import Encoder, write_shards
from lightningdit_jax.inference.image_batches import image_resolution
from lightningdit_jax.inference.reconstruct import make_encoder
from lightningdit_jax.parallel.mesh import check_batch_size
from lightningdit_jax.parallel.multihost import is_main_process
from lightningdit_jax.planning.mesh import inference_mesh


def extract(config: Config, workdir: str) -> epath.Path:
    """Encodes every image of config.data, and its mirror image, and returns the latents' folder.

    Each process writes its own shards; the statistics follow when all are there, then the features
    of extract.features. A restart goes on where the last run ended. Raises ValueError if the folder
    holds latents made otherwise, or is not local or mounted, and as image_resolution, and
    FloatingPointError naming images whose latents or features are not finite as they are stored; no
    shard holds such.
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
    path = options.checkpoint or workdir
    if options.features:
        open_features(config, mesh, abstract_functional)  # whether it is there
    found = abstract_functional(path, mesh, expect=Role.TOKENIZER, compute=config.compute)
    tokenizer = found.as_tokenizer()
    resolution = image_resolution(options, tokenizer)
    source = open_image_batches(config, config.data.split, resolution)
    loaded = load_functional(path, mesh, expect=Role.TOKENIZER, compute=config.compute)
    grid = options.features_grid or resolution // tokenizer.downsample_factor
    teacher = open_features(config, mesh) if options.features else None
    made = {"tokenizer": loaded.fingerprint, "tokenizer_path": path, "seed": config.seed}
    check_record(
        folder, make_record(config, made, source.source, resolution, options.dtype), "latents"
    )
    encoder = Encoder(
        make_encoder(loaded.graphdef, config.seed),
        loaded.params,
        "the latents",
        "the tokenizer",
        options.dtype,
        "extract.dtype",
    )
    write_shards(config, encoder, source, resolution, folder, mesh)
    if is_main_process():
        latents = LatentShards(folder)
        save_stats(folder, compute_stats(latents, options.stats_images or None))
        unreadable = len(source) - len(latents)
        left_out = f", {counted(unreadable, 'unreadable image')} left out" if unreadable else ""
        print(f"{counted(len(latents), 'latent')} and their statistics in {folder}{left_out}")
    multihost_utils.sync_global_devices("statistics written")
    if teacher is not None:
        write_features(config, teacher, grid, source, resolution, folder / FEATURES, mesh)
    return folder
