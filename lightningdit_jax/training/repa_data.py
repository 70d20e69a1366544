"""What REPA's features are, or are computed of, opened beside a generator's latents."""

import numpy as np
from etils import epath

from lightningdit_jax.assembly.identity import images_identity
from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.latents_record import RECORD
from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.data.shown import ShownLatents
from lightningdit_jax.data.sources import SOURCES
from lightningdit_jax.errors import counted, difference, renamed_key
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.training.repa import (
    CACHED,
    NONE,
    SHOWN,
    cached_teacher,
    check_repa,
    features_folder,
)


def open_shown(config: Config, latents: LatentBatches) -> LatentBatches:
    """The latents, and with them what repa.features says of their images.

    Raises ValueError or FileNotFoundError for features or images that are not there, are damaged or
    are not those of the latents, row for row.
    """
    if config.repa.features == NONE:
        return latents
    check_repa(config)
    with renamed_key("data.path", "repa.path"):
        if config.repa.features == CACHED:
            return ShownLatents(latents, SHOWN, _features(config, latents.shards))
        return ShownLatents(latents, SHOWN, _images(config, latents.shards))


def open_shown_held_out(config: Config, latents: LatentBatches) -> LatentBatches:
    """The same of held-out latents, by repa.valid_path.

    Where that is empty and nothing lies beside the latents they are all that there is, which is
    said. Raises as open_shown, and ValueError for features of another model than in training.
    """
    if config.repa.features == NONE:
        return latents
    given, folder = config.repa.valid_path, str(latents.shards.folder)
    held_out = config.changed(data={"path": folder}, repa={"path": given})
    if not given and not _are_beside(held_out, latents):
        print_once(
            f"held out: no features of the images of {folder}, so repa_loss is of training alone; "
            "config.repa.valid_path says where they are, or the images"
        )
        return latents
    with renamed_key("repa.path", "repa.valid_path"):
        if config.repa.features == CACHED:
            there, here = (cached_teacher(c).identity for c in (held_out, config))
            if there != here:
                raise ValueError(
                    f"{features_folder(held_out)} holds features of another model, {there}, than "
                    f"those trained on, {here}; extract both with the same"
                )
        return open_shown(held_out, latents)


def _are_beside(config: Config, latents: LatentBatches) -> bool:
    if config.repa.features == CACHED:
        return epath.Path(features_folder(config)).is_dir()
    source = (latents.shards.record or {}).get("images", {}).get("source")
    return source in SOURCES and "path" not in SOURCES[source].reads


def _features(config: Config, latents: LatentShards) -> LatentShards:
    features = LatentShards(features_folder(config))
    keys = ("images", "resolution")
    there, here = ({k: (s.record or {}).get(k) for k in keys} for s in (features, latents))
    if change := difference(there, here, "{} there, {} here"):
        raise ValueError(
            f"{features.folder} holds features of other images than the latents in "
            f"{latents.folder}: {change}; extract both from the same images"
        )
    if not np.array_equal(features.labels, latents.labels):
        raise ValueError(
            f"{features.folder} holds features of {len(features):,} images, and {latents.folder} "
            f"{len(latents):,} latents, or in another order; go on with --mode=extract, which "
            "writes what is missing of either"
        )
    said = f"features of {counted(len(features), 'image')} in {features.folder}"
    print_once(*features.notes, said)
    return features


def _images(config: Config, latents: LatentShards) -> ImageBatches:
    record = latents.record or {}
    made, resolution = record.get("images", {}), record.get("resolution")
    if made.get("source") not in SOURCES or not isinstance(resolution, int):
        raise ValueError(
            f"{latents.folder} has no {RECORD} that says which image a latent is of; "
            "config.repa.features='computed' is for latents that --mode=extract wrote"
        )
    split = made.get("split", "")
    keys = {
        "source": made["source"],
        "path": config.repa.path,
        "tfds_name": made.get("name", ""),
        "labels": "",
        "corrupt": "stop",  # a row less would be another image's
    }
    images = open_image_batches(config.changed(data=keys), split, resolution)
    found = images_identity(config.changed(data=keys).data, images.source, split)
    if change := difference(found, made, "{} there, {} of the latents"):
        raise ValueError(
            f"config.repa.path={config.repa.path} holds other images than the latents in "
            f"{latents.folder} were made of: {change}; name those"
        )
    if len(images) != len(latents):
        raise ValueError(
            f"{latents.folder} holds {len(latents):,} latents of {len(images):,} images, so nobody "
            "knows which image a latent is of; extract them anew without those that are damaged, "
            "or set config.repa.features='cached'"
        )
    return images
