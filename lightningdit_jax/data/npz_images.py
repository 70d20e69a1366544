"""Images inside an .npz file, read a batch at a time: 50,000 of 256x256 are 10 GB."""

import zipfile
from collections.abc import Iterator

import numpy as np
from etils import epath


class NpzImages:
    """The array `arr_0` of an .npz file, uint8 [N, H, W, 3], as ADM's evaluator reads it.

    Raises FileNotFoundError, and ValueError naming the file if it holds no such array or has it
    compressed.
    """

    def __init__(self, path: epath.PathLike, name: str = "arr_0"):
        self.path, self._entry = epath.Path(path), f"{name}.npy"
        with self.path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError(f"{self.path} is not an .npz file")
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                if self._entry not in archive.namelist():
                    raise ValueError(f"{self.path} lacks '{name}'; it has {archive.namelist()}")
                info = archive.getinfo(self._entry)
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(
                        f"{self.path} is compressed; write it with numpy.savez instead"
                    )
                with archive.open(info) as stream:
                    version = np.lib.format.read_magic(stream)
                    read_header = getattr(
                        np.lib.format, f"read_array_header_{version[0]}_{version[1]}"
                    )
                    self.shape, fortran, dtype = read_header(stream)
                    self._begin = stream.tell()
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3 or fortran:
            raise ValueError(
                f"{self.path} holds {dtype} of shape {self.shape}; expected uint8 [N, H, W, 3]"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images start ... stop - 1 in order; the last batch may be short."""
        size = int(np.prod(self.shape[1:]))
        with (
            self.path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
            archive.open(self._entry) as stream,
        ):
            stream.seek(self._begin + start * size)
            for first in range(start, stop, batch_size):
                count = min(batch_size, stop - first)
                data = stream.read(count * size)
                yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
