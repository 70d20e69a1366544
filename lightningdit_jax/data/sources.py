"""The sources of images that a config can name, a row each."""

import dataclasses
from collections.abc import Callable

from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.images import ImageFolder, ImageSource
from lightningdit_jax.data.tfds_images import TFDSImages


@dataclasses.dataclass(frozen=True)
class Source:
    """open(path=, split=, size=, tfds_name=), all of them given, opens the images.

    size: side of the crops to come. reads: the keys of config.data that decide which images these
    are, and "corrupt" where one of them can be damaged.
    """

    open: Callable[..., ImageSource]
    reads: tuple[str, ...]


def _folder(path: str, **_: object) -> ImageSource:
    if not path:
        raise ValueError("config.data.path is empty; set it to a folder of images")
    return ImageFolder(path)


SOURCES = {
    # Upscaled to the size of the crops.
    "digits": Source(lambda split, size, **_: Digits(split, size), ("split",)),
    "folder": Source(_folder, ("path", "corrupt")),
    # The path is TFDS's data_dir.
    "tfds": Source(
        lambda path, split, tfds_name, **_: TFDSImages(tfds_name, split, path or None),
        ("path", "split", "tfds_name", "corrupt"),
    ),
}


def open_images(source: str, *, path: str, split: str, size: int, tfds_name: str) -> ImageSource:
    """Opens the images of a row of SOURCES.

    Raises ValueError for another source, and what the row raises: FileNotFoundError for a folder
    that is not there.
    """
    if source not in SOURCES:
        raise ValueError(
            f"config.data.source is '{source}'; images come from {', '.join(map(repr, SOURCES))}"
        )
    return SOURCES[source].open(path=path, split=split, size=size, tfds_name=tfds_name)


def describe_images(images: ImageSource) -> list[str]:
    """What a source holds and what of it was left out, a line each."""
    return [f"{len(images):,} images, {class_line(images.class_names)}", *images.notes]
