"""Images of a page as they are drawn, the very ones of --mode=sample, and their files."""

import dataclasses
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.data.class_names import short_names
from lightningdit_jax.errors import counted
from lightningdit_jax.inference.page.settings import requested, requested_labels
from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.inference.sampling.job import describe_samples
from lightningdit_jax.inference.sampling.opening import with_average
from lightningdit_jax.inference.sampling.options import Method, Sampling
from lightningdit_jax.inference.sampling.sampler import Sampler
from lightningdit_jax.parallel.out_of_memory import first_line, is_out_of_memory
from lightningdit_jax.progress import Progress

TEXT_CHUNK = "parameters"  # of a PNG, where programs for such pictures look
SETTINGS_FILE = "samples.json"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How far a drawing is. pictures: PNG files with captions; archive: all of it, at the end."""

    line: str
    pictures: tuple[tuple[str, str], ...] = ()
    archive: str = ""


class Refused(ValueError):
    """A line about settings that cannot be drawn."""


class Drawer:
    """Draws what the controls say, each time into a folder of its own within `folder`.

    config, workdir: of the page; sampler, weights: as open_sampler made them of it.
    """

    def __init__(
        self,
        config: Config,
        workdir: str,
        sampler: Sampler,
        weights: dict[str, Any],
        folder: epath.Path,
    ):
        self._sampler, self._weights, self._folder = sampler, weights, folder
        self._ema_sigma = config.sample.ema_sigma  # of the sampler's average
        self._names = short_names(sampler.class_names)
        self._numbers = itertools.count(1)
        self._compiled = set[tuple[Method, int, int]]()
        # As a config of its own, which says what was planned, and is read from anywhere.
        options = config.sample
        self._config = config.changed(
            sample={
                "checkpoint": _from_anywhere(options.checkpoint or workdir),
                "tokenizer": _from_anywhere(options.tokenizer),
                "weak_checkpoint": _from_anywhere(options.weak_checkpoint),
                "batch_size": sampler.batch_size,
                "decode_batch_size": sampler.structure.decode_batch_size,
                "output": "png",
            }
        )

    def draw(
        self, settings: Mapping[str, Any], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Drawn]:
        """Yields what there is whenever that is more, the last time with an archive.

        settings: as settings.first_settings. stopped: asked after each batch. The archive holds
        000000.png and so on, what decides them, and the config.json of --mode=sample that draws
        them. Raises Refused.
        """
        sampler = self._sampler
        try:
            asked = requested(self._config, settings, sampler.class_names)
            sampler.structure.fitted(Sampling.of(asked.sample))
            num_classes = sampler.structure.config.num_classes
            labels = requested_labels(asked, num_classes, sampler.class_names)
        except ValueError as error:
            raise Refused(str(error)) from error
        try:
            if asked.sample.ema_sigma != self._ema_sigma:
                yield Drawn("reading the weights of another average")
                self._take_average(asked)
            yield from self._draw(asked, labels, stopped)
        except FloatingPointError as error:
            raise Refused(str(error)) from error
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise Refused(
                f"out of memory: {first_line(error)}; start the page with a smaller "
                f"config.sample.batch_size than {sampler.batch_size}"
            ) from error

    def _take_average(self, asked: Config) -> None:
        """Raises Refused where there is none of the width that a config asks for."""
        try:
            opened = with_average(self._sampler, self._weights, asked, asked.sample.checkpoint)
        except (ValueError, FileNotFoundError) as error:
            raise Refused(str(error)) from error
        self._sampler, self._weights = opened
        self._ema_sigma = asked.sample.ema_sigma

    def _draw(
        self, asked: Config, labels: np.ndarray, stopped: Callable[[], bool]
    ) -> Iterator[Drawn]:
        sampler, count = self._sampler, len(labels)
        sampling = sampler.structure.fitted(Sampling.of(asked.sample))
        passes = sampling.forward_passes(sampler.structure.flow)
        each = "" if passes is None else f", {passes:,} passes of the network each"
        program = (sampling.method(), sampling.num_steps, min(count, sampler.batch_size))
        known = program in self._compiled
        first = "" if known else "; compiling first, minutes where a network is large"
        yield Drawn(f"drawing {counted(count, 'image')}{each}{first}")

        description = {"seed": asked.seed, **describe_samples(asked, sampler, self._weights)}
        folder = self._folder / f"{next(self._numbers):04d}"
        folder.mkdir(parents=True)
        write_json(folder / SETTINGS_FILE, description)
        write_config(asked, str(folder))
        progress = Progress("drawn", count, quiet=True)
        pictures: list[tuple[str, str]] = []
        line, ended = "", False
        for indices, images in sampler.batches(np.arange(count), labels, sampling, seed=asked.seed):
            for index, image in zip(indices.tolist(), images):
                pictures.append(self._save(folder, image, index, int(labels[index]), description))
            done, ended = len(pictures), len(pictures) < count and stopped()
            last = ended or len(pictures) == count
            line = f"drawn {done:,}/{count:,}"
            if known:  # of one that compiles first, the first batch says nothing
                line = progress.line(done, progress.rate(done), last=last)
            else:
                progress.mark(done)
            known = True
            self._compiled.add(program)
            if last:
                break
            yield Drawn(line, tuple(pictures))
        line = f"{'stopped: ' if ended else ''}{line}{each}"
        yield Drawn(line, tuple(pictures), _archive(folder))

    def _save(
        self,
        folder: epath.Path,
        image: np.ndarray,
        index: int,
        label: int,
        description: Mapping[str, Any],
    ) -> tuple[str, str]:
        """Writes a PNG that says how it was drawn; its path and its caption."""
        path = folder / f"{index:06d}.png"
        said = {"index": index, "label": label, **description}
        name = self._names[label] if self._names else ""
        if name:
            said["class"] = name
        said.pop("class_names", None)  # of all other classes
        save_png(path, image, {TEXT_CHUNK: json.dumps(said)})
        return str(path), name or f"class {label}"


def _archive(folder: epath.Path) -> str:
    """A zip file of a folder, beside it."""
    path = folder.with_name(f"samples-{folder.name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{path.stem}/{file.name}")
    return str(path)


def _from_anywhere(path: str) -> str:
    return os.path.abspath(path) if path and "://" not in path else path
