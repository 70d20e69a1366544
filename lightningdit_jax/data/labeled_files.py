"""A folder of images and a file that says what each of them shows."""

import csv
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from lightningdit_jax.data.image_listing import FORMATS, ImageListing, printable
from lightningdit_jax.data.images import ImageFiles
from lightningdit_jax.data.labels import ONE_CLASS, number_labels
from lightningdit_jax.errors import counted, listed, one_line, plain

LABEL_FILES = ("labels.csv", "labels.txt")
_HEADS = (
    ("file", "file_name", "filename", "image", "path", "name"),
    ("label", "class", "class_name", "class_label", "labels"),
)


class LabeledFiles(ImageFiles):
    """The images of a folder, at any depth, by path, with the labels of a file.

    labels: the file, with a line `file,label` for each image, whose path begins in the folder; a
    comma, a tab or a blank is between. A first line may name the columns (`file_name`, `label`);
    then there may be others. "none" makes all images one class. What does not count as an image is
    said in ImageListing.
    Raises FileNotFoundError, and ValueError for a file that is no such list, for images that are
    named and not there, there and not named, or named twice.
    """

    def __init__(self, folder: str | os.PathLike, labels: str):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images; set config.data.path")
        listing = ImageListing(folder)
        self.notes = listing.left_out()
        below = [path for paths in listing.classes.values() for path in paths]
        self.paths = sorted([*listing.loose, *below])
        if not self.paths:
            raise FileNotFoundError(f"{folder} holds no images ({' '.join(FORMATS)})")
        self._names = [os.path.relpath(path, folder) for path in self.paths]
        if labels == ONE_CLASS:
            self.labels = np.zeros(len(self.paths), np.int64)
            self.class_names: Sequence[str] = ["images"]
            return
        found = _read(pathlib.Path(labels))
        _compare(labels, folder, {*found}, {*self._names})
        given = [found[name] for name in self._names]
        try:
            self.labels, self.class_names = number_labels(_alike(given), self._said)
        except ValueError as error:
            raise ValueError(f"{labels}: {error}") from error

    def fingerprint(self) -> str:
        """A hash of the names of files and classes and of the labels."""
        names = [printable(name) for name in self._names]
        digest = hashlib.sha256(json.dumps([names, [*self.class_names]]).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _said(self, index: int) -> str:
        return printable(self._names[index])


def label_file_in(folder: str | os.PathLike) -> str:
    """A file of labels that lies in a folder without class folders; "" where there is none."""
    folder = pathlib.Path(folder)
    there = [str(folder / name) for name in LABEL_FILES if (folder / name).is_file()]
    if not there or ImageListing(folder).classes:
        return ""
    if len(there) > 1:
        raise ValueError(f"{folder} holds {' and '.join(LABEL_FILES)}; remove one of them")
    return there[0]


def _compare(labels: str, folder: pathlib.Path, named: set[str], there: set[str]) -> None:
    if absent := sorted(named - there):
        raise ValueError(
            f"{labels} names {counted(len(absent), 'image')} not in {folder}: "
            f"{listed([plain(name) for name in absent])}; correct their names, or take them out"
        )
    if unnamed := sorted(there - named):
        raise ValueError(
            f"{labels} has no label of {counted(len(unnamed), 'image')} in {folder}: "
            f"{listed([printable(name) for name in unnamed])}; add them to it, or move them away"
        )


def _alike(labels: Sequence[str]) -> list[int | str]:
    """Whole numbers as such. Those among names stay so, for number_labels to refuse."""
    return [int(label) if label.isascii() and label.isdigit() else label for label in labels]


def _read(path: pathlib.Path) -> dict[str, str]:
    """Labels by name of file, as a path begins in the folder."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of labels; set config.data.labels to one")
    found: dict[str, str] = {}
    try:
        for number, (name, label) in _pairs(path):
            name = os.path.normpath(name)
            if not label or found.setdefault(name, label) != label:
                what = f"a second label for {plain(name)}" if label else f"{plain(name)} has none"
                raise ValueError(f"line {number}: {what}; expected a label for each image")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    if not found:
        raise ValueError(f"{path} is empty; expected a line 'file,label' for each image")
    return found


def _pairs(path: pathlib.Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """File and label of each line, with its number. Raises ValueError for a line of others."""
    columns, count = (0, 1), 2
    for number, cells in enumerate(_rows(path), 1):
        if not any(cells):
            continue
        if number == 1 and (heads := _columns([cell.lower() for cell in cells])):
            columns, count = heads, len(cells)
            continue
        if len(cells) != count:
            raise ValueError(
                f"line {number} has {counted(len(cells), 'part')}, {plain(repr(cells), 60)}; "
                f"expected {count}: 'file,label', a name with a comma in double quotes"
            )
        yield number, (cells[columns[0]], cells[columns[1]])


def _columns(heads: Sequence[str]) -> tuple[int, int] | None:
    """Where file and label stand in a first line of names; None where it is none."""
    found = [next((i for i, h in enumerate(heads) if h in names), None) for names in _HEADS]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _rows(path: pathlib.Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        mark = "," if "," in first else "\t" if "\t" in first else ""
        if not mark:  # the label is what follows the last blank
            yield from (line.rsplit(None, 1) for line in file)
            return
        for row in csv.reader(file, delimiter=mark, skipinitialspace=True, strict=True):
            yield [cell.strip() for cell in row]
