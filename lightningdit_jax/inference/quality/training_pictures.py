"""Pictures within training: samples of a generator, or what a tokenizer makes of images."""

from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.assembly.registry import abstract_model, compute_options
from lightningdit_jax.averages import WEIGHTS, weights_item
from lightningdit_jax.config import Config
from lightningdit_jax.data.pipeline import BatchSource
from lightningdit_jax.inference.pictures import image_grid, save_png
from lightningdit_jax.inference.reconstruct import make_reconstructor
from lightningdit_jax.inference.sampling.in_training import TrainingSampler, Weights
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.weight_types import as_used
from lightningdit_jax.parallel.batch_function import jit_batches
from lightningdit_jax.parallel.mesh import num_batch_shards
from lightningdit_jax.parallel.multihost import global_batch, is_main_process, to_host
from lightningdit_jax.planning.mesh import inference_mesh

ROWS, COLUMNS = 4, 8  # of a generator's picture; a column a class where there are ten at most
IMAGES = 10  # of a tokenizer's

Draw = Callable[[Weights], np.ndarray]
Picture = Callable[[epath.Path, Weights], np.ndarray]


def make_training_picture(
    config: Config, scaling: LatentScaling | None, source: BatchSource
) -> Picture | None:
    """picture(path, state) -> uint8 [H, W, 3], and a PNG file; None where it is off.

    Of a generator samples by TrainingSampler, of a tokenizer some images of `source`, evenly
    spaced and cropped at the center, above their reconstructions by the main average, or by the
    weights where there is none. The same seeds, labels and images at every step. All processes
    have to call it, with the state on their mesh; the main one writes.
    Raises what TrainingSampler raises, before training begins; later StorageError, and
    FloatingPointError for samples that are not finite.
    """
    if config.train.picture_every_steps == 0:
        return None
    generator = config.kind == "lightningdit"
    draw = _samples(config, scaling) if generator else _reconstructions(config, source)

    def picture(path: epath.Path, state: Weights) -> np.ndarray:
        image = draw(state)
        if is_main_process():
            save_png(path, image)
        return image

    return picture


def _samples(config: Config, scaling: LatentScaling | None) -> Draw:
    columns = config.model.num_classes if config.model.num_classes <= 10 else COLUMNS
    sampler = TrainingSampler(
        config, scaling, ROWS * columns, what="a picture", key="picture_every_steps"
    )
    return lambda state: image_grid(np.concatenate(list(sampler.draw(state))), columns)


def _reconstructions(config: Config, source: BatchSource) -> Draw:
    mesh, architecture = inference_mesh(config.mesh), tokenizer_config(config)
    options = compute_options("vavae", architecture, config.compute, mesh)
    graphdef, _ = abstract_model("vavae", architecture, **options)
    reconstruct = jit_batches(make_reconstructor(graphdef, config.seed), mesh)
    count = min(IMAGES, len(source))
    shown = np.arange(count) * len(source) // count
    # Every process reads all of them, and puts its own rows on its devices.
    batch = source.read_batch(shown, np.zeros(count, bool))
    there = len(batch["images"])
    originals = batch["images"]
    if there == 0:
        raise ValueError("config.train.picture_every_steps: none of the images can be read")
    shards = num_batch_shards(mesh)
    rows = -(-there // shards) * shards // jax.process_count()
    mine = np.arange(jax.process_index() * rows, (jax.process_index() + 1) * rows) % there
    local = {"images": originals[mine], "indices": mine.astype(np.int32)}

    def draw(state: Weights) -> np.ndarray:
        params = {WEIGHTS: state.params, **state.averages}[
            weights_item(state.averages, True, 0.0, "config.train.ema_decays")
        ]
        batch = global_batch(local, mesh)
        rebuilt, _ = reconstruct(as_used(graphdef, params), batch["images"], batch["indices"])
        return image_grid(np.concatenate([originals, to_host(rebuilt)[:there]]), there)

    return draw
