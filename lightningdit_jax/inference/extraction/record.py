"""What latents are made with, written beside them, so that a restart goes on alike."""

from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from lightningdit_jax.assembly.identity import images_identity
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.data.latents_record import RECORD, read_record
from lightningdit_jax.errors import difference
from lightningdit_jax.parallel.multihost import is_main_process


def make_record(
    config: Config, made: dict[str, Any], images: ImageSource, resolution: int, stored: str
) -> dict[str, Any]:
    """All that the rows of a shard depend on, and the names of the classes.

    made: what the network is, and draws; resolution: side of the images that are encoded; stored:
    type of the numbers in the files.
    Neither batch size nor mesh is among it, nor where files lie, nor config.data.corrupt: a run
    that stopped at an image that cannot be decoded may go on without it. All processes must call
    it.
    """
    return {
        **made,
        "images": images_identity(config.data, images, config.data.split),
        "class_names": list(images.class_names),
        "resolution": resolution,
        "dtype": config.compute.dtype,
        "shard_size": config.extract.shard_size,
        "stored_dtype": stored,
        "processes": jax.process_count(),
    }


def check_record(folder: epath.Path, record: dict[str, Any], what: str) -> None:
    """Writes the record of a new folder; that of one that is there has to be the same.

    Names of classes are not compared: those of a folder of images are in its fingerprint. Nor is
    where the tokenizer lies.
    what: is in the folder, latents or features. All processes must call it. Raises ValueError
    naming what differs, and for latents without a record.
    """
    path, found = folder / RECORD, read_record(folder)
    if found is not None:
        compared = [key for key in record if key not in ("class_names", "tokenizer_path")]
        there, here = ({key: r.get(key) for key in compared} for r in (found, record))
        if changes := difference(there, here):
            raise ValueError(
                f"{folder} holds {what} made otherwise: {changes}; delete them or set another "
                "config.extract.path"
            )
    elif folder.exists() and any(p.name.endswith(".safetensors") for p in folder.iterdir()):
        raise ValueError(
            f"{folder} holds {what} without an {RECORD}, so it cannot be known how they were "
            "made; delete them or set another config.extract.path"
        )
    multihost_utils.sync_global_devices("record of the extraction checked")
    if is_main_process() and found is None:
        write_json(path, record)
    multihost_utils.sync_global_devices("record of the extraction written")
