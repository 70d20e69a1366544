"""FID, sFID, Inception Score, precision and recall of samples, as ADM's evaluator defines them."""

from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.config import Config
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.frechet import Moments, frechet_distance, moments_from_npz
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.precision_recall import precision_recall
from lightningdit_jax.inference.image_batches import local_rows, process_range
from lightningdit_jax.inference.load import load_functional
from lightningdit_jax.inference.progress import Progress
from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh
from lightningdit_jax.parallel.multihost import gather_numpy, global_batch, is_main_process


def evaluate_samples(config: Config, workdir: str) -> dict[str, float]:
    """The metrics of WORKDIR/samples.npz against evaluate.reference, a file of ADM's.

    The first evaluate.num_images samples count. Precision and recall compare with the images inside
    the reference file. All processes read the file and share the work.
    Raises ValueError or FileNotFoundError for files or a network that are not what they should be.
    """
    options = config.evaluate
    for key in ("inception", "reference"):
        if not getattr(options, key):
            raise ValueError(
                f"config.evaluate.{key} is empty; FID needs a converted Inception network "
                "(convert_torch_weights.py --kind=inception) and a reference file of the ADM "
                "evaluator, such as VIRTUAL_imagenet256_labeled.npz"
            )
    samples = NpzImages(epath.Path(workdir) / "samples.npz")
    reference_images = NpzImages(options.reference)
    reference = moments_from_npz(options.reference)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch_size(options.batch_size, mesh, jax.process_count())
    network = _Network(options.inception, options.batch_size, mesh)

    found = network.features(samples, min(len(samples), options.num_images), "samples seen")
    real = network.features(reference_images, len(reference_images), "reference images seen")
    pool, spatial = Moments.of(found["pool"]), Moments.of(found["spatial"])
    quality = precision_recall(real["pool"], found["pool"])
    return {
        "fid": frechet_distance(pool.mean, pool.covariance, *reference.pool),
        "sfid": frechet_distance(spatial.mean, spatial.covariance, *reference.spatial),
        "inception_score": inception_score(found["logits"]),
        "precision": quality.precision,
        "recall": quality.recall,
        "num_samples": pool.count,
    }


class _Network:
    """The Inception network on a mesh."""

    def __init__(self, path: str, batch_size: int, mesh: Mesh):
        loaded = load_functional(path, mesh, expect="inception")
        self._batch_size, self._mesh, self._params = batch_size, mesh, loaded.params

        def run(params: Any, images: jax.Array) -> dict[str, jax.Array]:
            features = nnx.merge(loaded.graphdef, params)(images)
            return {name: getattr(features, name) for name in ("pool", "spatial", "logits")}

        self._run = jax.jit(run, out_shardings=batch_sharding(mesh))

    def features(self, images: NpzImages, total: int, verb: str) -> dict[str, np.ndarray]:
        """Features of the first `total` images in order, the same in every process. [N, ...]."""
        start, stop = process_range(total)
        local_size = self._batch_size // jax.process_count()
        longest = -(-total // jax.process_count())
        progress = Progress(verb, stop - start, quiet=not is_main_process())
        batches = images.batches(local_size, start, stop)
        rows: dict[str, list[np.ndarray]] = {"pool": [], "spatial": [], "logits": []}
        done = 0
        for _ in range(-(-longest // local_size)):
            batch = next(batches, np.zeros((0, *images.shape[1:]), np.uint8))
            padded = np.zeros((local_size, *images.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            output = self._run(self._params, global_batch({"images": padded}, self._mesh)["images"])
            for name, parts in rows.items():
                parts.append(local_rows(output[name], len(batch)))
            done += len(batch)
            progress.update(done)
        return {name: _gathered(np.concatenate(parts), longest) for name, parts in rows.items()}


def _gathered(rows: np.ndarray, longest: int) -> np.ndarray:
    """Rows of all processes in order; a process has `longest` rows or one less."""
    if jax.process_count() == 1:
        return rows
    padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    counts = gather_numpy(np.array(len(rows)))
    return np.concatenate([p[:n] for p, n in zip(gather_numpy(padded), counts)])
