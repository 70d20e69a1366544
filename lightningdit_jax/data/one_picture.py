"""A single file as a set of images."""

import pathlib

import numpy as np

from lightningdit_jax.data.images import ImageFiles


class OnePicture(ImageFiles):
    """An image file, of whatever suffix: one image of one class, of the file's name."""

    def __init__(self, path: str):
        self.paths = [path]
        self.labels = np.zeros(1, np.int64)
        self.class_names = [pathlib.Path(path).stem]
