"""How well a tokenizer rebuilds images: PSNR, SSIM, LPIPS, rFID, and a picture."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.identity import images_identity, weights_identity
from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.loading import Loaded, load_functional
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.config import Config
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
from lightningdit_jax.inference.quality.metric import Judgment, check_blocks
from lightningdit_jax.inference.quality.reconstruction_picture import ReconstructionPicture
from lightningdit_jax.inference.reconstruct import make_reconstructor
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.mesh import check_batch_size
from lightningdit_jax.parallel.multihost import gather_numpy, is_main_process
from lightningdit_jax.planning.mesh import inference_mesh
from lightningdit_jax.progress import Progress

POOL_DIM = 2048


def evaluate_tokenizer(config: Config, workdir: str) -> tuple[Judgment, dict[str, Any], np.ndarray]:
    """PSNR (dB), SSIM, and with their networks LPIPS and rFID, over evaluate.split.

    evaluate.lpips and evaluate.inception are converted checkpoints; a metric without its network
    is left out. Reconstructions are decoded from posterior samples to uint8, as the release
    evaluates its tokenizers; unlike there, LPIPS sees those uint8 images, not the decoder's output.
    Images that cannot be decoded and are skipped do not count. Returns the numbers, what they are
    of, and a picture of originals above reconstructions, of ten images spread over the set. Raises
    ValueError where no image could be read.
    """
    mesh = inference_mesh(config.mesh)
    options = config.evaluate
    check_batch_size(options.batch_size, mesh, jax.process_count())
    path = config.extract.checkpoint or workdir
    tokenizer = load_functional(
        path,
        mesh,
        expect=Role.TOKENIZER,
        compute=config.compute,
    )
    resolution = image_resolution(config.extract, tokenizer.as_tokenizer())
    source = open_image_batches(config, options.split, resolution)
    reconstruct = jit_batches(make_reconstructor(tokenizer.graphdef, config.seed), mesh)
    compare = _Comparison(options.lpips, options.inception, mesh, options.jackknife_blocks)
    total = min(len(source), options.num_images)
    check_blocks(config, total)
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
    for indices, _, batch in batches:
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
        done += len(indices)
        progress.update(done)
    judgment, grid = compare.result(-(-total // jax.process_count())), picture.grid()
    images = {
        "path": config.data.path,
        **images_identity(config.data, source.source, options.split),
    }
    of = {
        "tokenizer": weights_identity(path, tokenizer),
        "images": images,
        "settings": {
            "resolution": resolution,
            "seed": config.seed,
            "dtype": config.compute.dtype,
        },
        **compare.networks(),
    }
    return judgment, of, grid


class _Comparison:
    """What pairs of images score, on this process; `result` gathers those of all.

    Features are kept where there are blocks for a jackknife to leave out; else their moments are.
    """

    def __init__(self, lpips: str, inception: str, mesh: Mesh, num_blocks: int):
        self._distance = self._features = None
        self._paths = {"LPIPS": lpips, "Inception": inception}
        self._networks: dict[str, Loaded] = {}
        if lpips:
            self._networks["LPIPS"] = load_functional(lpips, mesh, expect="lpips")
            self._distance = _compiled(
                self._networks["LPIPS"],
                lambda model, a, b: model(to_model_range(a), to_model_range(b)),
                mesh,
            )
        if inception:
            self._networks["Inception"] = load_functional(inception, mesh, expect="inception")
            self._features = _compiled(
                self._networks["Inception"],
                lambda model, images: model(images).pool,
                mesh,
            )
        self._scores: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
        if lpips:
            self._scores["lpips"] = []
        self._streams = [MomentsStream(POOL_DIM), MomentsStream(POOL_DIM)]
        self._num_blocks = num_blocks
        self._kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, images: jax.Array, rebuilt: jax.Array, names: list[str]) -> list[np.ndarray]:
        """Takes a batch into account, its first rows here, of these names; returns those of both.

        Raises FloatingPointError naming images of which a network's output is not finite.
        """
        pair = [local_rows(a, len(names)) for a in (images, rebuilt)]
        self._scores["psnr"].append(psnr(*pair))
        self._scores["ssim"].append(ssim(*pair))
        if self._distance:
            self._scores["lpips"].append(
                self._finite_rows("LPIPS", self._distance(images, rebuilt), names)
            )
        if self._features:
            for stream, kept, array in zip(self._streams, self._kept, (images, rebuilt)):
                rows = self._finite_rows("Inception", self._features(array), names)
                stream.add(rows)
                if self._num_blocks:
                    kept.append(rows)
        return pair

    def _finite_rows(self, network: str, output: jax.Array, names: list[str]) -> np.ndarray:
        rows = local_rows(output, len(names))
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        weights = {network: self._networks[network].params}
        check_finite(finite, names, f"the outputs of {network}", weights, "look at the checkpoint")
        return rows

    def networks(self) -> dict[str, Any]:
        """Which networks judged. All processes must call it."""
        return {
            name: weights_identity(self._paths[name], network)
            for name, network in self._networks.items()
        }

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
        if self._features:
            original, rebuilt = (gathered_moments(s.moments()).gaussian for s in self._streams)
            numbers[_name("fid")] = frechet_distance(*original, *rebuilt)
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
        if self._features:
            pair = [gathered_rows(np.concatenate(kept), longest) for kept in self._kept]
            bars = frechet_bars(_name("fid"), lambda a, b: frechet_distance(*a, *b), pair, blocks)
        return Judgment.of(numbers, bars, left_out)


def _name(score: str) -> str:
    return f"reconstruction_{score}"


def _compiled(loaded: Loaded, function: Callable, mesh: Mesh) -> Callable:
    """function(model, *images) as compiled for batches of images, the model's weights given."""

    def run(params: Any, *images: jax.Array) -> jax.Array:
        return function(nnx.merge(loaded.graphdef, params), *images)

    program = jit_batches(run, mesh)
    return lambda *images: program(loaded.params, *images)
