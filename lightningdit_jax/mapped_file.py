"""A file mapped into memory, whose pages can be given back while its arrays stay usable."""

import mmap
import os

import numpy as np


class MappedFile:
    """`data` is the file's content, uint8 [size], read from the disk where it is used."""

    def __init__(self, path: str | os.PathLike[str]):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data = np.frombuffer(self._map, np.uint8)

    def release(self) -> None:
        """Drops the pages read so far from this process; they are read again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
