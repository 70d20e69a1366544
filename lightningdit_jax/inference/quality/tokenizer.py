"""How well a tokenizer rebuilds images: PSNR, SSIM, LPIPS, rFID, and a picture."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.assembly.identity import images_identity, weights_identity
from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.loading import Loaded, abstract_functional, load_functional
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.config import Config
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.evaluation.error_bars import ErrorBar, random_blocks, without
from lightningdit_jax.evaluation.frechet import MomentsStream, frechet_distance
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.reconstruction import psnr, ssim
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import (
    image_resolution,
    local_rows,
    padded_batches,
    process_range,
)
from lightningdit_jax.inference.quality.features import gathered_moments, gathered_rows
from lightningdit_jax.inference.quality.metric import Judgment, Numbers, check_blocks
from lightningdit_jax.inference.quality.reconstruction_picture import ReconstructionPicture
from lightningdit_jax.inference.quality.tokenizer_measure import Given
from lightningdit_jax.inference.quality.tokenizer_measures import check_measures, measure
from lightningdit_jax.inference.quality.tokenizer_neighbors import open_neighbors
from lightningdit_jax.inference.quality.tokenizer_networks import Judges, check_judges, open_judges
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors
from lightningdit_jax.inference.reconstruct import make_reconstructor
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.mesh import check_batch_size
from lightningdit_jax.parallel.multihost import gather_numpy, is_main_process
from lightningdit_jax.planning.mesh import inference_mesh
from lightningdit_jax.progress import Progress


def evaluate_tokenizer(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any], np.ndarray]:
    """PSNR (dB), SSIM, and with their networks LPIPS and rFID, over evaluate.split.

    evaluate.lpips, evaluate.inception and evaluate.networks are converted checkpoints; a metric
    without its network is left out, and of the last each gives the Fréchet distance in its
    features. Reconstructions are decoded from posterior samples to uint8, as the release
    evaluates its tokenizers; unlike there, LPIPS sees those uint8 images, not the decoder's output.
    Images that cannot be decoded and are skipped do not count. The numbers of evaluate.measures
    follow, see tokenizer_measures.py; all images stay in memory for them. Returns the numbers, what
    they are of, and a picture of originals above reconstructions, of ten images spread over the
    set. Raises ValueError where no image could be read, and what the measures raise.
    """
    mesh = inference_mesh(config.mesh)
    options = config.evaluate
    check_batch_size(options.batch_size, mesh, jax.process_count())
    path = config.extract.checkpoint or workdir
    found = abstract_functional(path, mesh, expect=Role.TOKENIZER, compute=config.compute)
    resolution = image_resolution(config.extract, found.as_tokenizer())
    check_judges(options)
    source = open_image_batches(config, options.split, resolution)
    tokenizer = load_functional(path, mesh, expect=Role.TOKENIZER, compute=config.compute)
    reconstruct = jit_batches(make_reconstructor(tokenizer.graphdef, config.seed), mesh)
    networks = open_judges(options, mesh)
    compare = _Comparison(networks, options.jackknife_blocks)
    total = min(len(source), options.num_images)
    check_blocks(config, total)
    images = images_identity(config.data, source.source, options.split)
    extra = _Measures(config, tokenizer, networks, source.source, images, total, mesh)
    start, stop = process_range(total)
    progress, done = Progress("rebuilt", stop - start, quiet=not is_main_process()), 0
    progress.compiling()
    batches = padded_batches(
        source,
        [(start, stop)],
        options.batch_size,
        resolution,
        mesh,
        config.data.num_workers,
    )
    picture = ReconstructionPicture(total, resolution)
    for indices, labels, batch in batches:
        rebuilt, finite = reconstruct(tokenizer.params, batch["images"], batch["indices"])
        names = [source.source.name(int(i)) for i in indices]
        check_finite(
            local_rows(finite, len(indices)),
            names,
            "the reconstructions",
            {"the tokenizer": tokenizer.params},
            "the weights and the image are in order; try --config.compute.dtype=float32",
        )
        pair = compare.add(batch["images"], rebuilt, names)
        picture.add(indices, *pair)
        extra.add(pair[0], labels)
        done += len(indices)
        progress.update(done)
    judgment, grid = compare.result(-(-total // jax.process_count())), picture.grid()
    judgment = judgment._replace(numbers={**judgment.numbers, **extra.numbers()})
    of = {
        "tokenizer": weights_identity(path, tokenizer),
        "images": {"path": config.data.path, **images},
        "settings": {
            "resolution": resolution,
            "seed": config.seed,
            "dtype": config.compute.dtype,
        },
        **networks.identities(),
        **extra.of,
    }
    return judgment, of, grid


class _Comparison:
    """What pairs of images score, on this process; `result` gathers those of all.

    Features are kept where there are blocks for a jackknife to leave out; else their moments are.
    """

    def __init__(self, networks: Judges, num_blocks: int):
        self._networks = networks
        self._scores: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
        if networks.distance:
            self._scores["lpips"] = []
        inception = {"fid": networks.features} if networks.features else {}
        self._features = {**inception, **networks.others}
        self._streams: dict[str, list[MomentsStream]] = {}
        self._num_blocks = num_blocks
        self._kept: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {
            score: ([], []) for score in self._features
        }

    def add(self, images: jax.Array, rebuilt: jax.Array, names: list[str]) -> list[np.ndarray]:
        """Takes a batch into account, its first rows here, of these names; returns those of both.

        Raises FloatingPointError naming images of which a network's output is not finite.
        """
        pair = [local_rows(a, len(names)) for a in (images, rebuilt)]
        self._scores["psnr"].append(psnr(*pair))
        self._scores["ssim"].append(ssim(*pair))
        if self._networks.distance:
            self._scores["lpips"].append(self._networks.distance(images, rebuilt, names))
        for score, features in self._features.items():
            both = [features(array, names) for array in (images, rebuilt)]
            streams = self._streams.setdefault(
                score, [MomentsStream(rows.shape[1]) for rows in both]
            )
            for stream, kept, rows in zip(streams, self._kept[score], both):
                stream.add(rows)
                if self._num_blocks:
                    kept.append(rows)
        return pair

    def result(self, longest: int) -> Judgment:
        """The numbers over all processes, and of how many images. All of them must call it.

        longest: images that a process sees at most.
        """
        scores = {name: np.concatenate(values) for name, values in self._scores.items()}
        sums = np.array([len(scores["psnr"]), *(values.sum() for values in scores.values())])
        count, *sums = gather_numpy(sums).sum(0)
        if count == 0:
            raise ValueError("there is nothing to evaluate: no image of the set could be read")
        numbers = {_name(name): float(s / count) for name, s in zip(scores, sums)}
        for score, streams in self._streams.items():
            original, rebuilt = (gathered_moments(s.moments()).gaussian for s in streams)
            numbers[_name(score)] = frechet_distance(*original, *rebuilt)
        numbers["num_images"] = int(count)
        if not self._num_blocks:
            return Judgment(numbers)
        blocks = random_blocks(int(count), self._num_blocks)
        rows = {name: gathered_rows(values, longest) for name, values in scores.items()}
        left_out = [
            {
                _name(k): float(v[without(b, len(v))].mean())
                for k, v in rows.items()
                if np.isfinite(v).all()
            }
            for b in blocks
        ]
        bars: dict[str, ErrorBar] = {}
        for score, both in self._kept.items():
            pair = [gathered_rows(np.concatenate(kept), longest) for kept in both]
            bars |= frechet_bars(_name(score), lambda a, b: frechet_distance(*a, *b), pair, blocks)
        return Judgment.of(numbers, bars, left_out)


class _Measures:
    """What evaluate.measures says of the images that were rebuilt, which are kept for it.

    images: identity of the source; total: images at most. of: what the numbers depend on. Raises
    what the measures refuse, before anything is computed.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Loaded,
        networks: Judges,
        source: ImageSource,
        images: dict[str, Any],
        total: int,
        mesh: Mesh,
    ):
        self._names = config.evaluate.measures
        self.of: dict[str, Any] = {}
        if not self._names:
            return
        model = tokenizer.as_tokenizer()
        resolution = image_resolution(config.extract, model)
        networks = networks.of_digits(source.class_names, resolution)
        side = resolution // model.downsample_factor
        neighbors = Neighbors(config.evaluate.ifid_neighbors)
        if "ifid" in self._names:
            neighbors, self.of["ifid"] = open_neighbors(config.evaluate, tokenizer, side, images)
        first = source.label(0) if total else 0
        has_classes = any(source.label(index) != first for index in range(total))
        given = Given(networks, has_classes, total, side, neighbors)
        check_measures(self._names, given)
        self._images: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._measure = functools.partial(
            measure,
            tokenizer,
            names=self._names,
            networks=networks,
            mesh=mesh,
            batch_size=config.evaluate.batch_size,
            seed=config.seed,
            neighbors=neighbors,
        )

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Images uint8 [b, R, R, 3] of this process and their labels [b]."""
        if self._names:
            self._images.append(images)
            self._labels.append(labels)

    def numbers(self) -> Numbers:
        """Of all images. All processes must call it."""
        if not self._names:
            return {}
        return self._measure(np.concatenate(self._images), np.concatenate(self._labels))


def _name(score: str) -> str:
    return f"reconstruction_{score}"
