"""The images that a config names, as batches."""

from typing import Any, Literal

from lightningdit_jax.config import Config, DataConfig
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.data.labels import ONE_CLASS
from lightningdit_jax.data.sources import SOURCES, describe_images, open_images
from lightningdit_jax.parallel.multihost import print_once


def open_image_batches(
    config: Config,
    split: str,
    resolution: int,
    augment: Literal["random_crop", "center_crop"] = "center_crop",
) -> ImageBatches:
    """The images of config.data, cropped to a tokenizer's resolution.

    Prints how many there are, their classes and what was left out. Raises what open_images raises,
    and UnreadableImageError where one image is enough to see that a job cannot go on.
    """
    data = config.data
    images = open_config_images(data, split, resolution)
    print_once(*describe_images(images))
    batches = ImageBatches(
        images,
        resolution=resolution,
        augment=augment,
        num_threads=data.num_threads,
        corrupt=data.corrupt,
    )
    batches.check_first()
    return batches


def open_config_images(data: DataConfig, split: str, size: int) -> ImageSource:
    """The images that config.data names, of a split of them. Raises what open_images raises."""
    return open_images(
        data.source,
        path=data.path,
        split=split,
        size=size,
        tfds_name=data.tfds_name,
        labels=data.labels,
    )


def held_out_keys(data: DataConfig) -> dict[str, Any]:
    """Keys of config.data as those of the images of data.valid_path, of all their splits."""
    return {
        "source": SOURCES[data.source].held_out,
        "path": data.valid_path,
        "split": "",
        "labels": data.labels if data.labels == ONE_CLASS else "",
    }
