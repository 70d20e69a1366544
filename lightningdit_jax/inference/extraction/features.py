"""Patch features of a vision model beside the latents, for the alignment of a generator (REPA).

They are a folder in the format of latents: `latents` and `latents_flip` [N, D, h, w] are a
foundation model's features of the image and of its mirror image, row for row those of the latents
beside which they lie; extraction.json says of which model, instead of a tokenizer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import Loaded, load_functional
from lightningdit_jax.assembly.teacher import make_teacher, open_teacher
from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.errors import counted
from lightningdit_jax.inference.extraction.record import check_record, make_record
from lightningdit_jax.inference.extraction.shard_pass import Encoder, write_shards
from lightningdit_jax.parallel.multihost import print_once


def open_features(
    config: Config, mesh: Mesh, load: Callable[..., Loaded] = load_functional
) -> Loaded:
    """The vision model of extract.features. load and what is raised: as for open_teacher."""
    return open_teacher(load, config.extract.features, "extract.features", mesh, config.compute)


def write_features(
    config: Config,
    teacher: Loaded,
    grid: int,
    source: ImageBatches,
    resolution: int,
    folder: epath.Path,
    mesh: Mesh,
) -> None:
    """Writes the features that the folder lacks, and says first how large they are.

    grid: patches along a side. All processes must call it. Raises as check_record and write_shards.
    """
    dtype, width = config.extract.features_dtype, teacher.config.hidden_size
    made = {
        "foundation": {"kind": teacher.meta["kind"], "fingerprint": teacher.fingerprint},
        "features": {"grid": grid, "width": width},
    }
    check_record(folder, make_record(config, made, source.source, resolution, dtype), "features")
    size = 2 * len(source) * grid**2 * width * jnp.dtype(dtype).itemsize
    print_once(
        f"{dtype} features of {width} channels in {grid}x{grid} patches, of "
        f"{counted(len(source), 'image')} and as many mirrored: {size / 2**30:,.1f} GiB in {folder}"
    )
    features = make_teacher(teacher, grid)

    def encode(params: Any, images: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        return features(params, images), features(params, images[:, :, ::-1])

    encoder = Encoder(
        encode,
        teacher.params,
        "the features",
        "the vision model",
        dtype,
        "extract.features_dtype",
    )
    write_shards(config, encoder, source, resolution, folder, mesh)
    print_once(f"features of {counted(len(LatentShards(folder)), 'image')} in {folder}")
