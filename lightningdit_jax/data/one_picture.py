"""A single file as a set of images."""

import pathlib

import numpy as np

from lightningdit_jax.data.images import ImageFiles, UnreadableImageError


class OnePicture(ImageFiles):
    """An image file, of whatever suffix: one image of one class, of the file's name.

    Raises UnreadableImageError for a file that is no image, or a damaged one: there is no other.
    """

    def __init__(self, path: str):
        self.paths = [path]
        self.labels = np.zeros(1, np.int64)
        self.class_names = [pathlib.Path(path).stem]
        try:
            self.image(0)
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}; set config.data.path to a folder of images or to an image, and "
                "config.data.source to 'parquet' or 'webdataset' for files of these"
            ) from error
