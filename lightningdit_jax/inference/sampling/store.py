"""Images on disk by sample index: a killed run goes on where it stopped, memory stays flat."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json, write_json
from lightningdit_jax.data.npz_images import NpzImages, write_npz_images
from lightningdit_jax.data.sample_parts import SamplePart, find_parts, write_part
from lightningdit_jax.errors import difference
from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.npz_reader import DamagedNpzError, opened_npz
from lightningdit_jax.verification import is_verifying

_PNG = re.compile(r"^(\d{6,})\.png$")
_WRITERS = 8


class SampleStore:
    """Parts of the samples of one description, and what is made of them once all are there.

    While sampling, WORKDIR/samples.parts holds a file per batch (data.sample_parts), each written
    whole. description: everything that decides the images; parts of another one are refused, so
    that no set of samples is a mixture, and those of nobody knows what are not used. Damaged ones
    are drawn again, with a line.
    """

    def __init__(self, workdir: epath.Path, description: dict[str, Any], total: int):
        """Raises ValueError if WORKDIR holds parts of other samples."""
        description = json.loads(json.dumps(description))  # as it will be read back
        self._workdir, self._description, self._total = workdir, description, total
        self._folder = workdir / "samples.parts"
        self._settings = self._folder / "samples.json"
        self._looked_at: dict[epath.Path, bool] = {}  # parts, and whether they are whole
        if self._settings.exists():
            _check_same(read_json(self._settings), description, self._folder)

    def is_finished(self, outputs: list[str]) -> bool:
        """Whether the samples of this very description are there already, in these files.

        Those of samples.npz are read, but within verifying(False); damaged, they are drawn again,
        with a line. Of pictures it is asked whether all are there.
        """
        path = self._workdir / "samples.json"
        if not path.exists() or not all((self._workdir / name).exists() for name in outputs):
            return False
        found = read_json(path)
        if not all(found.get(key) == value for key, value in self._description.items()):
            return False
        runtime = field_of(path, found, "runtime", dict, {})
        if not set(outputs) <= set(runtime.get("outputs", outputs)):
            return False  # what has that name is of a request before
        if "samples" in outputs and not self._has_all_pngs():
            return False
        checksum = runtime.get("arr_0_crc32")
        return "samples.npz" not in outputs or self._is_whole_npz(checksum)

    def _has_all_pngs(self) -> bool:
        there = {path.name for path in (self._workdir / "samples").iterdir()}
        return all(f"{i:06d}.png" in there for i in range(self._total))

    def _is_whole_npz(self, checksum: int | None) -> bool:
        """checksum: of the images, where samples.json says it."""
        path = self._workdir / "samples.npz"
        try:
            if checksum is not None and checksum != NpzImages(path).checksum():
                return False
            if is_verifying():
                with opened_npz(path) as archive:
                    if (name := archive.testzip()) is not None:
                        raise DamagedNpzError(f"{path} is damaged: its checksum of {name} differs")
        except ValueError as error:
            logging.warning("%s: its samples are drawn again", error)
            return False
        return True

    def missing(self) -> list[tuple[int, int]]:
        """Ranges [start, stop) of samples that are in no part, in order."""
        gaps, position = [], 0
        for part in self._parts():
            if part.first > position:
                gaps.append((position, part.first))
            position = max(position, part.first + part.count)
        return [*gaps, *([(position, self._total)] if position < self._total else [])]

    def write(self, first: int, images: np.ndarray) -> None:
        """Stores samples first, first + 1, ...: uint8 [b, H, W, 3]."""
        if not self._settings.exists():
            for part in find_parts(self._folder):
                logging.warning("%s is of nobody knows which samples: removed", part.path)
                part.path.unlink()
            write_json(self._settings, self._description)
        self._looked_at[write_part(self._folder, first, images).path] = True

    def images(self) -> Iterator[np.ndarray]:
        """All samples in order, part by part: uint8 [b, H, W, 3]. Raises ValueError for a gap."""
        if gaps := self.missing():
            raise ValueError(
                f"{self._folder}: samples {gaps[0][0]} to {gaps[0][1] - 1} are missing"
            )
        position = 0
        for part in self._parts():
            images = part.read(is_verifying())
            images = images[max(position - part.first, 0) : self._total - part.first]
            position = max(position, part.first + part.count)
            if len(images):
                yield images

    def retract(self) -> None:
        """Removes samples.json: what it says is there is going to be written over."""
        (self._workdir / "samples.json").unlink(missing_ok=True)

    def write_npz(self, labels: np.ndarray) -> None:
        """samples.npz: arr_0 images, uint8 [N, H, W, 3], as the ADM evaluator reads; arr_1 labels.

        Written part by part.
        """
        side = next(self.images()).shape[1:]
        path, shape = self._workdir / "samples.npz", (self._total, *side)
        write_npz_images(path, self.images(), shape, {"arr_1": labels})

    def write_pngs(self) -> None:
        """samples/000000.png, samples/000001.png, ...; those of a larger number are removed."""
        folder, first = self._workdir / "samples", 0
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if (number := _PNG.match(path.name)) and int(number[1]) >= self._total:
                path.unlink()
        with ThreadPoolExecutor(_WRITERS) as threads:
            for images in self.images():
                paths = [folder / f"{first + i:06d}.png" for i in range(len(images))]
                list(threads.map(save_png, paths, images))
                first += len(images)

    def finish(self, runtime: dict[str, Any]) -> None:
        """Writes samples.json, the description and `runtime`, and deletes the parts."""
        write_json(self._workdir / "samples.json", {**self._description, "runtime": runtime})
        self._folder.rmtree()

    def _parts(self) -> list[SamplePart]:
        """Every whole part, in order."""
        parts = find_parts(self._folder) if self._settings.exists() else []
        return [part for part in parts if self._is_whole(part)]

    def _is_whole(self, part: SamplePart) -> bool:
        if part.path not in self._looked_at:
            try:
                part.read(is_verifying())
                self._looked_at[part.path] = True
            except ValueError as error:
                logging.warning("%s: its samples are drawn again", error)
                self._looked_at[part.path] = False
        return self._looked_at[part.path]


def _check_same(found: dict, wanted: dict, folder: epath.Path) -> None:
    if changes := difference(found, wanted):
        raise ValueError(
            f"{folder} holds the beginning of other samples: {changes}. Go on with "
            "those settings, delete the folder, or choose another --workdir"
        )
