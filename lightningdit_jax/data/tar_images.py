"""Images in tar files, as WebDataset writes them: KEY.jpg and its label in KEY.cls or KEY.json."""

import collections
import dataclasses
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from lightningdit_jax.data.image_listing import FORMATS, printable
from lightningdit_jax.data.images import EncodedImages
from lightningdit_jax.data.labels import ONE_CLASS, number_labels
from lightningdit_jax.data.source_files import find_files, place_of
from lightningdit_jax.errors import listed, one_line, plain

_IMAGES = {suffix[1:] for suffix in FORMATS}
_LABELS = ("cls", "json")
_LABEL_FIELDS = ("label", "cls")  # of the JSON
_MOST_BYTES = {"cls": 64, "json": 2**20}
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)


class TarImages(EncodedImages):
    """Samples of uncompressed tar files; nothing is unpacked.

    path: a file, a pattern, or a folder of them. A sample is the members that follow each other and
    have one name up to the first dot of it: an image (jpg, png, webp, ...) and its label, a whole
    number in `cls`, or in the `label` or `cls` of a `json`, where it may also be a name.
    labels: "none" makes all one class. Headers are read once, at the beginning; what is kept
    in memory is where each image lies, which is all that reading it takes.
    Raises FileNotFoundError, and ValueError naming a tar that is damaged, truncated or compressed,
    and a sample without a label or with two images.
    """

    def __init__(self, path: str, labels: str = ""):
        self._files = find_files(path, ".tar")
        self._places = [place_of(file, path) for file in self._files]
        labeled, others = labels != ONE_CLASS, collections.Counter[str]()
        found: list[tuple[int, _Sample]] = []
        for number, file in enumerate(self._files):
            found += [(number, sample) for sample in _samples(file, labeled, others)]
        if not found:
            said = f"; its members end in {listed([*others], 5)}" if others else ""
            raise ValueError(f"{path} holds no images ({' '.join(sorted(_IMAGES))}){said}")
        places = [(number, sample.begin, sample.size) for number, sample in found]
        self._where = np.array(places, np.int64)  # [N, 3]
        self._keys = [sample.key for _, sample in found]
        self.notes = []
        if others:
            counts = ", ".join(f"{n:,} {printable(ending)}" for ending, n in others.most_common(20))
            self.notes = [f"{path}: not read, for their endings: {counts}"]
        if not labeled:
            self.labels, self.class_names = np.zeros(len(found), np.int64), ["images"]
            return
        missing = [i for i, (_, sample) in enumerate(found) if sample.label is None]
        if missing:
            raise ValueError(
                f"{path}: {len(missing):,} of {len(found):,} images have no label, the first is "
                f"{self.name(missing[0])}; expected KEY.cls, a whole number, or KEY.json with "
                f"'label', beside each, or config.data.labels={ONE_CLASS}: all are one class"
            )
        known = [sample.label for _, sample in found if sample.label is not None]
        self.labels, self.class_names = number_labels(known, self.name)

    def fingerprint(self) -> str:
        """A hash of the samples' names, sizes and labels, the same wherever the files lie."""
        listing = [self._places, self._keys, [*self.class_names]]
        digest = hashlib.sha256(json.dumps(listing).encode())
        for array in (self._where, self.labels):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()

    def encoded(self, index: int) -> bytes:
        """See EncodedImages."""
        file, begin, size = (int(n) for n in self._where[index])
        try:
            with open(self._files[file], "rb", buffering=0) as opened:
                content = os.pread(opened.fileno(), size, begin)
        except OSError as error:
            raise OSError(f"{self.name(index)} cannot be read: {error}") from error
        return content  # of a file that was cut since, less, which no decoder takes for whole

    def name(self, index: int) -> str:
        """The sample's key and its tar."""
        file = self._files[int(self._where[index, 0])]
        return f"{printable(self._keys[index])} in {printable(file)}"


@dataclasses.dataclass
class _Sample:
    key: str
    begin: int = -1
    size: int = 0
    label: int | str | None = None


def _samples(file: str, labeled: bool, others: collections.Counter[str]) -> Iterator[_Sample]:
    """Those of a tar that hold an image. others: counts endings that are of neither kind."""
    sample = _Sample("")
    try:
        with open(file, "rb") as opened:
            for member in _members(opened):
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not stem:  # hidden
                    continue
                key, ending = f"{folder}/{stem}" if folder else stem, ending.lower()
                if key != sample.key:
                    if sample.begin >= 0:
                        yield sample
                    sample = _Sample(key)
                if ending in _IMAGES:
                    if sample.begin >= 0:
                        raise ValueError(f"sample '{plain(key)}' has two images; expected one")
                    sample.begin, sample.size = member.offset_data, member.size
                elif ending in _LABELS:
                    # The number holds where both are there.
                    if labeled and (ending == "cls" or sample.label is None):
                        label = _label(opened, member, ending)
                        sample.label = sample.label if label is None else label
                else:
                    others[ending or "nothing"] += 1
        if sample.begin >= 0:
            yield sample
    except _DAMAGE as error:
        raise ValueError(f"{file}: {one_line(error)}") from error
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error}") from error


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, to its very end. Raises TarError and others of _DAMAGE."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        raise ValueError("it is compressed; unpack it to a .tar, where each image can be found")
    file.seek(0)
    place = -1
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # which would keep them all
            if member.offset <= place or member.size < 0:
                raise ValueError(f"damaged at byte {archive.offset:,}: a member of no size")
            place = member.offset
            if member.offset_data + member.size > total:
                raise ValueError(
                    f"truncated within '{plain(member.name)}', the file has {total:,} bytes"
                )
            if member.isreg() and not member.issparse():
                yield member
        # tarfile takes a header that is damaged for the end.
        file.seek(archive.offset)
        while block := file.read(2**20):
            if block.count(0) != len(block):
                raise ValueError(
                    f"damaged, or another tar joined to it: at byte {archive.offset:,} of "
                    f"{total:,} its members end, and more follows"
                )


def _label(file: BinaryIO, member: tarfile.TarInfo, ending: str) -> int | str | None:
    """None where a JSON has none. Raises ValueError for what is no label."""
    what = f"'{plain(member.name)}'"
    if member.size > _MOST_BYTES[ending]:
        raise ValueError(f"{what} has {member.size:,} bytes; expected a label")
    file.seek(member.offset_data)
    content = file.read(member.size)
    if ending == "cls":
        text = content.decode("ascii", "replace").strip()
        if not text.removeprefix("-").isdigit():
            raise ValueError(f"{what} holds {plain(repr(text))}; expected a whole number")
        return int(text)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON: {one_line(error)}") from error
    named = [fields[name] for name in _LABEL_FIELDS if isinstance(fields, dict) and name in fields]
    if not named:
        return None
    if type(named[0]) not in (int, str):
        raise ValueError(
            f"{what} has the label {named[0]!r:.50}; expected a whole number or a name"
        )
    return named[0]
