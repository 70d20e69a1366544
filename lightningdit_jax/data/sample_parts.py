"""Files of some of the samples that are being drawn; the name says which, and a digest of the file.

`00000128_64_0123456789abcdef.npy` holds samples 128 to 191, uint8 [64, H, W, 3]; the digits are the
first of its SHA-256. Files of older versions have no digits and are looked at without.
"""

import dataclasses
import hashlib
import io
import re

import numpy as np
from etils import epath

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.errors import one_line
from lightningdit_jax.npz_reader import DAMAGE, read_header

_NAME = re.compile(r"(\d{8})_(\d+)(?:_([0-9a-f]{16}))?\.npy")


@dataclasses.dataclass(frozen=True, order=True)
class SamplePart:
    """Samples `first` to first + count - 1 in a file; digest: "" where the name says none."""

    first: int
    count: int
    path: epath.Path = dataclasses.field(compare=False)
    digest: str = dataclasses.field(compare=False)

    def read(self, verify: bool) -> np.ndarray:
        """The images. verify: compares the digest. Raises ValueError for a damaged file."""
        data = self.path.read_bytes()
        if verify and self.digest and _digest(data) != self.digest:
            raise ValueError(f"{self.path} is not as it was written (SHA-256)")
        try:
            found = read_header(io.BytesIO(data), self.path.name, len(data))
            images = np.frombuffer(data, found.dtype, offset=found.begin).reshape(
                found.shape, order="F" if found.fortran else "C"
            )
        except DAMAGE as error:
            raise ValueError(f"{self.path} is damaged ({one_line(error)})") from error
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != self.count:
            raise ValueError(f"{self.path} holds {images.dtype} of shape {images.shape}")
        return images


def find_parts(folder: epath.Path) -> list[SamplePart]:
    """All parts in a folder, in order; none where there is no such folder."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
    return sorted(SamplePart(int(m[1]), int(m[2]), p, m[3] or "") for p, m in matches if m)


def write_part(folder: epath.Path, first: int, images: np.ndarray) -> SamplePart:
    """Writes samples first, first + 1, ...: uint8 [b, H, W, 3]; whole or not at all."""
    file = io.BytesIO()
    np.save(file, images)
    data = file.getvalue()
    digest = _digest(data)
    part = SamplePart(
        first, len(images), folder / f"{first:08d}_{len(images)}_{digest}.npy", digest
    )
    with replacing(part.path) as temporary:
        temporary.write_bytes(data)
    return part


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
