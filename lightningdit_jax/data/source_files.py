"""The files that config.data.path names where images lie many in a file."""

import glob
import os
import pathlib
from collections.abc import Sequence

from lightningdit_jax.data.image_listing import printable


def find_files(path: str, suffix: str) -> list[str]:
    """Paths, sorted: the file itself, those that a pattern matches, or those at any depth below.

    suffix: of those below a folder, ".tar"; what begins with a dot is hidden and left out.
    Raises FileNotFoundError where there are none, and ValueError for an empty path.
    """
    if not path:
        raise ValueError(
            f"config.data.path is empty; set it to a {suffix} file, a folder of them, or a pattern"
        )
    if os.path.isdir(path):
        found = _below(path, suffix)
    elif glob.has_magic(path) and not os.path.exists(path):
        found = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
    else:
        found = [path] if os.path.isfile(path) else []
    if not found:
        raise FileNotFoundError(
            f"{path}: there are no {suffix} files; set config.data.path to one, to a folder of "
            f"them, or to a pattern such as DIR/train-*{suffix}"
        )
    return sorted(found)


def place_of(file: str, path: str) -> str:
    """A file's name for people and fingerprints: from the folder on where `path` is one."""
    name = os.path.relpath(file, path) if os.path.isdir(path) else os.path.basename(file)
    return printable(name)


def of_split(files: Sequence[str], folder: str, split: str) -> list[str]:
    """Those of a split as the Hugging Face hub names files, "train-00000-of-00294.parquet".

    So do "train.parquet" and "train/0000.parquet". Raises FileNotFoundError naming the splits
    that are there.
    """
    splits = [_splits(pathlib.Path(os.path.relpath(file, folder))) for file in files]
    found = [file for file, names in zip(files, splits) if split in names]
    if not found:
        there = ", ".join(sorted({printable(names[0]) for names in splits})[:20])
        raise FileNotFoundError(
            f"{folder} has no files of the split '{split}'; those there begin with: {there}"
        )
    return found


def _splits(file: pathlib.Path) -> list[str]:
    """What a file's split may be called: what its name begins with, or the folder it lies in."""
    first, _, rest = file.stem.partition("-")
    names = [first] if rest else [file.stem]
    return names if file.parent == pathlib.Path() else [*names, file.parent.name]


def _below(folder: str, suffix: str) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(root, name)
            for name in names
            if name.endswith(suffix) and not name.startswith(".")
        ]
    return found
