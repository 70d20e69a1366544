"""The image source that a config names."""

from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.images import ImageFolder, ImageSource
from lightningdit_jax.data.tfds_images import TFDSImages


def open_images(source: str, *, path: str, split: str, size: int, tfds_name: str) -> ImageSource:
    """Opens "digits" (upscaled to `size`), "folder" (at `path`) or "tfds" (data_dir `path`).

    Raises ValueError for another source, FileNotFoundError for a folder that is not there.
    """
    if source == "digits":
        return Digits(split, size)
    if source == "folder":
        if not path:
            raise ValueError("config.data.path is empty; set it to a folder of images")
        return ImageFolder(path)
    if source == "tfds":
        return TFDSImages(tfds_name, split, path or None)
    raise ValueError(
        f"config.data.source is '{source}'; images come from 'digits', 'folder' or 'tfds'"
    )


def describe_images(images: ImageSource) -> list[str]:
    """What a source holds and what of it was left out, a line each."""
    return [f"{len(images):,} images, {class_line(images.class_names)}", *images.notes]
