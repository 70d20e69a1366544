"""Every image of a source read once: what they are, which are damaged, which are the same."""

import collections
import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lightningdit_jax.data.image_listing import printable
from lightningdit_jax.data.images import (
    EncodedImages,
    ImageSource,
    UnreadableImageError,
    decode,
)
from lightningdit_jax.errors import one_line

SIDES = (32, 64, 128, 256, 512)  # images whose short side is below are counted
_BLOCK = 256


@dataclasses.dataclass
class Inspection:
    """What was found of the images of a source.

    damaged: index and reason, of those that cannot be read or decoded. sides: [N, 2], width and
    height, 0 of damaged ones. formats, modes: images by what Pillow calls them, of encoded images
    alone. digests: [N], of an image's bytes, or of its pixels where it has none; empty of damaged
    ones.
    """

    source: ImageSource
    labels: np.ndarray
    damaged: list[tuple[int, str]]
    sides: np.ndarray
    formats: collections.Counter[str]
    modes: collections.Counter[str]
    digests: list[bytes]

    @property
    def whole(self) -> np.ndarray:
        """Whether an image was decoded. bool [N]."""
        return self.sides[:, 0] > 0

    def classes(self) -> dict[str, int]:
        """Images of each class, damaged ones too, by name; names that are twice have a number."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=self.source.num_classes)
        names = [printable(name) for name in self.source.class_names]
        often = collections.Counter(names)
        named = [n if often[n] == 1 else f"{n} ({i})" for i, n in enumerate(names)]
        return dict(zip(named, counts.tolist()))

    def short_sides(self) -> np.ndarray:
        """Of the whole images."""
        return self.sides[self.whole].min(1)

    def same(self) -> list[list[int]]:
        """Groups of indices whose bytes are the same, two or more each, in order."""
        groups: dict[bytes, list[int]] = collections.defaultdict(list)
        for index, digest in enumerate(self.digests):
            if digest:
                groups[digest].append(index)
        return [group for group in groups.values() if len(group) > 1]

    def shared(self, other: "Inspection") -> list[tuple[int, int]]:
        """Pairs (index here, index in other), of the first here, of all in other that are here."""
        here: dict[bytes, int] = {}
        for index, digest in enumerate(self.digests):
            here.setdefault(digest, index)
        return [(here[d], index) for index, d in enumerate(other.digests) if d and d in here]

    def name(self, index: int) -> str:
        """Of an image, for people."""
        return printable(self.source.name(index))


def inspect(
    source: ImageSource, num_threads: int, progress: Callable[[int], Any] = lambda done: None
) -> Inspection:
    """Reads all images with so many threads. progress: told how many are done, now and then."""
    total = len(source)
    found = Inspection(
        source,
        np.full(total, -1, np.int64),
        [],
        np.zeros((total, 2), np.int64),
        collections.Counter(),
        collections.Counter(),
        [b""] * total,
    )
    with ThreadPoolExecutor(num_threads) as threads:
        for begin in range(0, total, _BLOCK):
            block = range(begin, min(begin + _BLOCK, total))
            for index, seen in zip(block, threads.map(lambda i: _look(source, i), block)):
                _note(found, index, *seen)
            progress(block.stop)
    return found


class _Seen(NamedTuple):
    """What is kept of a decoded image; not its pixels, of which a block would be gigabytes."""

    size: tuple[int, int]
    format: str
    mode: str


def _look(source: ImageSource, index: int) -> tuple[int, _Seen | str, bytes]:
    """Label, what it is or why it cannot be read, and digest."""
    label = -1
    try:
        label = source.label(index)
        if not isinstance(source, EncodedImages):
            image = source.image(index)
            return label, _Seen(image.size, "", ""), hashlib.sha256(image.tobytes()).digest()
        content = source.encoded(index)
        picture = decode(io.BytesIO(content), printable(source.name(index)))
        seen = _Seen(picture.rgb.size, picture.format, picture.mode)
        return label, seen, hashlib.sha256(content).digest()
    except (UnreadableImageError, OSError) as error:
        return label, one_line(error, 300), b""


def _note(found: Inspection, index: int, label: int, seen: _Seen | str, digest: bytes) -> None:
    found.labels[index], found.digests[index] = label, digest
    if isinstance(seen, str):
        found.damaged.append((index, seen))
        return
    found.sides[index] = seen.size
    if seen.format:
        found.formats[seen.format] += 1
        found.modes[seen.mode] += 1


def names_of(found: Inspection, indices: Sequence[int]) -> list[str]:
    """Names of images, for people."""
    return [found.name(index) for index in indices]
