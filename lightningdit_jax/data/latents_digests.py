"""What the files of a folder of latents were when they were written: SHA-256 by name.

Each process of an extraction keeps those of its own shards in `extraction.rank00.json` and so on,
beside the record; the first one that of the statistics too. A digest is written before its file has
its name, so that a file without one is of an older version, or of another program.
"""

import re

from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json, write_json
from lightningdit_jax.file_digest import file_sha256

_NAME = re.compile(r"extraction\.rank\d+\.json")


def note_digest(folder: epath.Path, rank: int, name: str, sha256: str) -> None:
    """Keeps the digest of a file that process `rank` is about to write."""
    path = folder / f"extraction.rank{rank:02d}.json"
    files = _read(path) if path.exists() else {}
    files = dict(sorted({**files, name: sha256}.items()))  # the same bytes in any order
    write_json(path, {"sha256": files})


def read_digests(folder: epath.Path) -> dict[str, str]:
    """SHA-256 of files by name, as far as they are known. Raises ValueError for a damaged file."""
    digests: dict[str, str] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name):
            digests |= _read(path)
    return digests


def is_as_written(path: epath.Path, digests: dict[str, str]) -> bool | None:
    """Whether a file is what was written; None where that is not known."""
    wanted = digests.get(path.name)
    return None if wanted is None else file_sha256(path) == wanted


def _read(path: epath.Path) -> dict[str, str]:
    return field_of(path, read_json(path), "sha256", dict, {})
