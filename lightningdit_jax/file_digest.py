"""SHA-256 of files. Imports nothing of ours."""

import hashlib
from collections.abc import Callable

from etils import epath

_CHUNK = 2**24


def file_sha256(path: epath.Path, step: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file, in hexadecimal. step: is told the bytes of each piece that is read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            step(len(chunk))
    return digest.hexdigest()
