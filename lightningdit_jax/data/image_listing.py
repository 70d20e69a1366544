"""Which files below a folder are images. What else lies there is left out, and said."""

import collections
import os
import pathlib
from collections.abc import Iterator

from lightningdit_jax.errors import listed

# The suffixes of torchvision's ImageFolder, and what Pillow calls the formats behind them.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".ppm": "PPM",
    ".bmp": "BMP",
    ".pgm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
# Made by archivers, file servers and operating systems without anybody asking.
_SYSTEM_FOLDERS = {
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
}


class ImageListing:
    """The images of a folder of class folders, or of a folder of images.

    Left out are files and folders whose names begin with a dot, folders of the system (__MACOSX,
    @eaDir, lost+found, ...), and files of other suffixes than those of FORMATS.
    `classes`: the class folders by name, each with the paths of its images at any depth, sorted.
    `loose`: paths of the images directly in the folder.
    Raises ValueError for a folder that cannot be listed.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._hidden: list[str] = []
        self._others: collections.Counter[str] = collections.Counter()
        _, folders, files = next(self._walk(folder))
        self.loose = sorted(os.path.join(folder, name) for name in files)
        self.classes = {name: self._below(folder / name) for name in sorted(folders)}

    def left_out(self) -> list[str]:
        """What was left out, for people: hidden names, and other files by suffix."""
        lines = []
        if self._hidden:
            hidden = listed([printable(name) for name in self._hidden])
            lines.append(f"{self._folder}: hidden, or links that lead back, and skipped: {hidden}")
        if self._others:
            counts = sorted(self._others.items(), key=lambda item: (-item[1], item[0]))
            listing = ", ".join(f"{count:,} {printable(suffix)}" for suffix, count in counts)
            lines.append(f"{self._folder}: not read, for their suffix: {listing}")
        return lines

    def _below(self, folder: pathlib.Path) -> list[str]:
        return [
            os.path.join(root, name)
            for root, _, names in sorted(self._walk(folder))
            for name in sorted(names)
        ]

    def _walk(self, folder: pathlib.Path) -> Iterator[tuple[str, list[str], list[str]]]:
        """os.walk without what is left out, and without going round where a link leads back."""
        for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
            folders[:] = [name for name in sorted(folders) if not self._skip(root, name, True)]
            above = os.path.realpath(root)
            for name in list(folders):
                target = os.path.realpath(os.path.join(root, name))
                if above == target or above.startswith(target + os.sep):
                    folders.remove(name)
                    self._hidden.append(os.path.relpath(os.path.join(root, name), self._folder))
            yield root, folders, [name for name in sorted(names) if not self._skip(root, name)]

    def _skip(self, root: str, name: str, is_folder: bool = False) -> bool:
        if name.startswith(".") or (is_folder and name in _SYSTEM_FOLDERS):
            self._hidden.append(os.path.relpath(os.path.join(root, name), self._folder))
            return True
        suffix = os.path.splitext(name)[1].lower()
        if is_folder or suffix in FORMATS:
            return False
        self._others[suffix or "without one"] += 1
        return True


def printable(name: str) -> str:
    """A file's name for people: bytes that are no text are escaped."""
    return name.encode(errors="backslashreplace").decode()


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be listed: {error.strerror}") from error
