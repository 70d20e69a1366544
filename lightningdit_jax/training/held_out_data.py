"""The held-out examples of a config, opened and checked against what is trained on."""

import pathlib
import typing

from lightningdit_jax.assembly.images import held_out_keys, open_image_batches
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.parquet_images import ParquetImages
from lightningdit_jax.data.pipeline import BatchSource, LatentBatches
from lightningdit_jax.data.sources import SOURCES
from lightningdit_jax.errors import counted, renamed_key
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.training.repa_data import open_shown_held_out


def open_held_out(config: Config, source: BatchSource) -> BatchSource | None:
    """What train.validate_every_steps looks at, None where it is 0.

    A generator's latents are scaled as those it is trained on, `source`. Of images the center is
    seen. Raises ValueError or FileNotFoundError for data that are not named, not there, the same as
    those trained on, or do not fit the model or, being of another tokenizer, the run.
    """
    on_latents, data = isinstance(source, LatentBatches), config.data
    keys = ("valid_path",) if on_latents else ("valid_path", "valid_split")
    given = {f"config.data.{key}": getattr(data, key) for key in keys if getattr(data, key)}
    every = config.train.validate_every_steps
    if not every:
        print_once(*(f"{k} is not looked at: train.validate_every_steps is 0" for k in given))
        return None
    if len(given) != 1:
        found = " and ".join(given) + " are both set" if given else "nothing is held out"
        raise ValueError(
            f"config.train.validate_every_steps is {every}, but {found}; set "
            f"{' or '.join(f'config.data.{key}' for key in keys)}, or this to 0"
        )
    if data.valid_path and data.path and _same(data.valid_path, data.path):
        raise ValueError(
            f"config.data.valid_path is {data.valid_path}, which is trained on; expected a folder "
            "of other examples"
        )
    with renamed_key("data.path", "data.valid_path"):
        if isinstance(source, LatentBatches):
            return _open_latents(config, source)
        return _open_images(config, typing.cast(ImageBatches, source))


def _open_latents(config: Config, trained: LatentBatches) -> LatentBatches:
    architecture, there = generator_config(config), trained.shards
    shards = LatentShards(config.data.valid_path)
    shards.check(
        in_channels=architecture.in_channels,
        input_size=architecture.input_size,
        num_classes=architecture.num_classes,
    )
    if shards.tokenizer and there.tokenizer and shards.tokenizer != there.tokenizer:
        raise ValueError(
            f"{shards.folder} holds latents of another tokenizer, {shards.tokenizer}, than "
            f"{there.folder}, {there.tokenizer}; extract both with the same"
        )
    if shards.class_names and there.class_names and shards.class_names != there.class_names:
        raise ValueError(
            f"{shards.folder} names its classes otherwise than {there.folder} does, so their "
            "numbers are of other classes; extract both from images with the same class folders"
        )
    print_once(*shards.notes, f"held out: {counted(len(shards), 'latent')} in {shards.folder}")
    return open_shown_held_out(config, LatentBatches(shards, trained.scaling))


def _open_images(config: Config, trained: ImageBatches) -> BatchSource:
    data, resolution = config.data, tokenizer_config(config).resolution
    if data.valid_path:
        config = config.changed(data=held_out_keys(data))
    elif "split" not in SOURCES[data.source].reads:
        raise ValueError(
            f"config.data.valid_split is '{data.valid_split}', but config.data.source "
            f"'{data.source}' has no splits; set config.data.valid_path to a folder of images"
        )
    elif data.valid_split == data.split:
        raise ValueError(
            f"config.data.valid_split is '{data.valid_split}', which is trained on; expected "
            "another split"
        )
    print_once("held out:")
    held_out = open_image_batches(config, data.valid_split, resolution)
    if data.valid_split and _same_rows(held_out.source, trained.source):
        raise ValueError(
            f"config.data.path is {data.path}, which has no splits, and all of it is trained on; "
            "set it to a folder with files of both, or set config.data.valid_path"
        )
    return held_out


def _same_rows(held_out: ImageSource, trained: ImageSource) -> bool:
    """Whether both are the same files, which a single one is whatever split is asked for."""
    if not (isinstance(held_out, ParquetImages) and isinstance(trained, ParquetImages)):
        return False
    return held_out.fingerprint() == trained.fingerprint()


def _same(path: str, other: str) -> bool:
    return pathlib.Path(path).resolve() == pathlib.Path(other).resolve()
