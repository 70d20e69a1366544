"""--mode=sample: images of a generator, written as they come; a killed run goes on."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from lightningdit_jax.config import Config
from lightningdit_jax.data.class_names import short_names
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.inference.pictures import image_grid, save_png
from lightningdit_jax.inference.sampling.opening import chosen_average, find_sampler
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels
from lightningdit_jax.inference.sampling.sampler import Sampler
from lightningdit_jax.inference.sampling.store import SampleStore
from lightningdit_jax.parallel.multihost import from_main_process, is_main_process
from lightningdit_jax.progress import Progress

# Keys of config.sample that are not part of a Sampling but decide the images too.
_CHOICES = ("num_samples", "labels", "use_ema")
_OUTPUTS = {"npz": ["samples.npz"], "png": ["samples"], "both": ["samples.npz", "samples"]}


def sample(config: Config, workdir: str) -> epath.Path:
    """Draws config.sample.num_samples images into WORKDIR and returns WORKDIR/samples.json.

    sample.output: "npz" writes samples.npz (arr_0 uint8 [N, H, W, 3], what the ADM evaluator reads,
    and arr_1, the labels), "png" writes samples/000000.png and so on, "both" both. samples.png
    shows the first images, with the names of their classes where known, samples.json states
    everything that moves FID. Samples that are there already are not drawn again. Raises ValueError
    or FileNotFoundError as open_sampler does, and for a workdir with the beginning of other
    samples.
    """
    options, asked = config.sample, Sampling.of(config.sample)
    found = find_sampler(config, workdir)
    sampling, num_classes = found.structure.fitted(asked), found.structure.config.num_classes
    labels = choose_labels(
        options.labels, options.num_samples, num_classes, config.seed, found.class_names
    )
    sampler, weights = found.load(options.num_samples)
    description = {"seed": config.seed, **describe_samples(config, sampler, weights)}
    outputs = _OUTPUTS[options.output]
    folder, main = epath.Path(workdir), is_main_process()
    folder.mkdir(parents=True, exist_ok=True)
    store = SampleStore(folder, description, len(labels))
    if from_main_process(main and store.is_finished(outputs)):  # which may read 10 GB
        if main:
            print(f"these samples are there already: {', '.join(outputs)} in {folder}")
        return folder / "samples.json"

    began, missing = time.perf_counter(), _missing(store, len(labels))
    done = len(labels) - sum(stop - start for start, stop in missing)
    if main and done:
        print(f"{done:,} of {len(labels):,} samples are there already")
    progress = Progress("sampled", len(labels), quiet=not main, done=done)
    if missing:
        progress.compiling()
    for start, stop in missing:
        batches = sampler.batches(
            np.arange(start, stop),
            labels[start:stop],
            sampling,
            seed=config.seed,
        )
        for indices, images in batches:
            if main:
                store.write(int(indices[0]), images)
            done += len(images)
            progress.update(done)
    if main:
        names = short_names(sampler.class_names)
        _finish(store, folder, labels, num_classes, names, outputs, time.perf_counter() - began)
    return folder / "samples.json"


def describe_samples(config: Config, sampler: Sampler, weights: dict[str, Any]) -> dict[str, Any]:
    """All that decides the samples of a config but the seed, for JSON.

    weights: as open_sampler says.
    """
    options, sampling = config.sample, sampler.structure.fitted(Sampling.of(config.sample))
    description: dict[str, Any] = {
        **dataclasses.asdict(sampling),
        **{key: getattr(options, key) for key in _CHOICES},
        "evaluations": sampling.evaluations(),
        "guided_evaluations": sampling.guided_evaluations(sampler.structure.flow),
        "generator_flops": sampler.generator_flops(sampling),
        "dtype": config.compute.dtype,
        **weights,
    }
    return description | chosen_average(options)


def _missing(store: SampleStore, total: int) -> list[tuple[int, int]]:
    mask = np.zeros(total, bool)
    for start, stop in store.missing() if is_main_process() else ():
        mask[start:stop] = True
    edges = np.flatnonzero(np.diff(from_main_process(mask).astype(int), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _finish(
    store: SampleStore,
    folder: epath.Path,
    labels: np.ndarray,
    num_classes: int,
    names: list[str],
    outputs: list[str],
    seconds: float,
) -> None:
    store.retract()
    runtime: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "outputs": outputs,
    }
    if "samples.npz" in outputs:
        store.write_npz(labels)
        runtime["arr_0_crc32"] = NpzImages(folder / "samples.npz").checksum()
    if "samples" in outputs:
        store.write_pngs()
    columns = num_classes if num_classes <= 10 else 8
    if len(labels) <= columns:
        columns = -(-len(labels) // 2)  # two rows, as the release shows its eight
    shown = _first(store, columns * 8)
    called = dict(enumerate(names))
    captions = [called.get(int(label), "") for label in labels[: len(shown)]] if names else []
    save_png(folder / "samples.png", image_grid(shown, columns, captions=captions))
    store.finish(runtime)
    print(f"{', '.join(outputs)}, samples.json and a picture, samples.png, in {folder}")


def _first(store: SampleStore, count: int) -> np.ndarray:
    shown: list[np.ndarray] = []
    for images in store.images():
        shown.append(images)
        if sum(map(len, shown)) >= count:
            break
    return np.concatenate(shown)[:count]
