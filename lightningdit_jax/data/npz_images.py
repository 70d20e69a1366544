"""Images inside an .npz file, read and written a batch at a time: 50,000 of 256x256 are 10 GB."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from etils import epath

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.npz_reader import DamagedNpzError, member, opened_npz
from lightningdit_jax.storage_errors import check_absent


class NpzImages:
    """The array `arr_0` of an .npz file, uint8 [N, H, W, 3], as ADM's evaluator reads it.

    The other arrays of the file, such as labels, are not looked at.
    Raises FileNotFoundError, and ValueError naming the file if it holds no such array.
    """

    def __init__(self, path: epath.PathLike, name: str = "arr_0"):
        self.path = epath.Path(path)
        if not self.path.is_file():
            check_absent(self.path)
            raise FileNotFoundError(f"{self.path}: there is no such .npz file of images")
        with opened_npz(self.path) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise DamagedNpzError(f"{self.path} lacks '{name}'; it has {archive.namelist()}")
            found = member(archive, name, self.path.stat().length)
        self.shape, self._entry, self._begin = found.shape, found.entry, found.begin
        self._checksum, dtype, fortran = found.checksum, found.dtype, found.fortran
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3 or fortran:
            raise ValueError(
                f"{self.path} holds {dtype} of shape {self.shape}; expected uint8 [N, H, W, 3]"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def checksum(self) -> int:
        """CRC-32 of the array, as the archive has it: no image is read."""
        return self._checksum

    def batches(self, batch_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images start ... stop - 1 in order; the last batch may be short."""
        size = int(np.prod(self.shape[1:]))
        with opened_npz(self.path) as archive, archive.open(self._entry) as stream:
            stream.seek(self._begin + start * size)
            for first in range(start, stop, batch_size):
                count = min(batch_size, stop - first)
                data = stream.read(count * size)
                if len(data) != count * size:
                    raise DamagedNpzError(
                        f"{self.path} ends within image {first + len(data) // size}"
                    )
                yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])


def write_npz_images(
    path: epath.PathLike,
    images: Iterable[np.ndarray],
    shape: tuple[int, ...],
    others: Mapping[str, np.ndarray],
) -> None:
    """Writes an .npz file of `arr_0`, uint8 of the given shape [N, H, W, 3], and other arrays.

    images: batches of the N in order. The file appears under its name only when it is whole.
    Raises ValueError if the batches do not add up to N.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            written = _write_arrays(archive, images, shape, others)
        if written != shape[0]:
            raise ValueError(f"{path}: {written} images were given for an array of shape {shape}")


def _write_arrays(
    archive: zipfile.ZipFile,
    images: Iterable[np.ndarray],
    shape: tuple[int, ...],
    others: Mapping[str, np.ndarray],
) -> int:
    """Returns the number of images written."""
    for name, array in others.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
    written = 0
    with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for batch in images:
            stream.write(np.ascontiguousarray(batch, np.uint8).tobytes())
            written += len(batch)
    return written
