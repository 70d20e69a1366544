"""The sources of images that a config can name, a row each."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.images import ImageFolder, ImageSource
from lightningdit_jax.data.labeled_files import LabeledFiles, label_file_in
from lightningdit_jax.data.labels import ONE_CLASS
from lightningdit_jax.data.one_picture import OnePicture
from lightningdit_jax.data.parquet_images import ParquetImages
from lightningdit_jax.data.tar_images import TarImages
from lightningdit_jax.data.tfds_images import TFDSImages
from lightningdit_jax.errors import counted
from lightningdit_jax.object_stores import check_mounted


@dataclasses.dataclass(frozen=True)
class Source:
    """open(path=, split=, size=, tfds_name=, labels=), all of them given, opens the images.

    size: side of the crops to come. reads: the keys of config.data that decide which images these
    are, and "corrupt" where one of them can be damaged. held_out: the source that
    config.data.valid_path is of.
    """

    open: Callable[..., ImageSource]
    reads: tuple[str, ...]
    held_out: str = "folder"


def _folder(path: str, labels: str, **_: object) -> ImageSource:
    if not path:
        raise ValueError("config.data.path is empty; set it to a folder of images")
    if os.path.isfile(path):
        return OnePicture(path)
    if labels := labels or (label_file_in(path) if os.path.isdir(path) else ""):
        return LabeledFiles(path, labels)
    return ImageFolder(path)


def _many_in_a_file(labels: str) -> str:
    if labels not in ("", ONE_CLASS):
        raise ValueError(
            f"config.data.labels is '{labels}', but these images have their labels beside them; "
            f"leave it out, or '{ONE_CLASS}': all are one class"
        )
    return labels


SOURCES = {
    # Upscaled to the size of the crops.
    "digits": Source(lambda split, size, **_: Digits(split, size), ("split",)),
    "folder": Source(_folder, ("path", "labels", "corrupt")),
    "parquet": Source(
        lambda path, split, labels, **_: ParquetImages(path, split, _many_in_a_file(labels)),
        ("path", "split", "labels", "corrupt"),
        held_out="parquet",
    ),
    # The path is TFDS's data_dir.
    "tfds": Source(
        lambda path, split, tfds_name, **_: TFDSImages(tfds_name, split, path or None),
        ("path", "split", "tfds_name", "corrupt"),
    ),
    "webdataset": Source(
        lambda path, labels, **_: TarImages(path, _many_in_a_file(labels)),
        ("path", "labels", "corrupt"),
        held_out="webdataset",
    ),
}


def open_images(
    source: str, *, path: str, split: str, size: int, tfds_name: str, labels: str = ""
) -> ImageSource:
    """Opens the images of a row of SOURCES.

    Raises ValueError for another source and for a path in a bucket, which only TFDS reads, and what
    the row raises: FileNotFoundError for a folder that is not there.
    """
    if source not in SOURCES:
        raise ValueError(
            f"config.data.source is '{source}'; images come from {', '.join(map(repr, SOURCES))}"
        )
    if source != "tfds":
        check_mounted(path)
    return SOURCES[source].open(
        path=path, split=split, size=size, tfds_name=tfds_name, labels=labels
    )


def describe_images(images: ImageSource) -> list[str]:
    """What a source holds, class by class where that is known without reading all of it.

    And what of it was left out, a line each.
    """
    return [
        f"{counted(len(images), 'image')}, {class_line(images.class_names, counts(images))}",
        *images.notes,
    ]


def counts(images: ImageSource) -> list[int]:
    """Images of each class; empty where labels lie beside the images and were not read."""
    labels = getattr(images, "labels", None)
    if labels is None:
        return []
    return np.bincount(labels, minlength=images.num_classes).tolist()
