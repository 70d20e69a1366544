"""The latents among which iFID's neighbors are sought, as a config names them."""

from typing import Any

import numpy as np

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.config import EvaluateConfig
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors
from lightningdit_jax.parallel.multihost import print_once


def open_neighbors(
    options: EvaluateConfig, tokenizer: Loaded, side: int, images: dict[str, Any]
) -> tuple[Neighbors, dict[str, Any]]:
    """Those of evaluate.ifid_latents, or the images' own, and what they are of.

    side: of the latents of the images, whose identity `images` is. All processes must call it.
    Raises FileNotFoundError without such a folder, and ValueError for one of another tokenizer, of
    latents of another shape, or of the same images, each of which is its own neighbor.
    """
    path, count = options.ifid_latents, options.ifid_neighbors
    if not path:
        return Neighbors(count), {"neighbors": count, "among": images}
    where = f"config.evaluate.ifid_latents: {path} holds latents"
    shards = LatentShards(path)
    print_once(*shards.notes)
    shape = (side, side, tokenizer.as_tokenizer().embed_dim)
    if shards.shape != shape:
        raise ValueError(
            f"{where} of {list(shards.shape)}, and those of the images are {list(shape)}; make "
            "them with --mode=extract, by the same tokenizer and of the same resolution"
        )
    if shards.tokenizer is None:
        print_once(f"{path} does not say which tokenizer made it; taken for this one")
    elif shards.tokenizer != tokenizer.fingerprint:
        raise ValueError(
            f"{where} of another tokenizer, {shards.tokenizer}, and this one is "
            f"{tokenizer.fingerprint}; make them with --mode=extract and this one"
        )
    among = (shards.record or {}).get("images")
    if among == images:
        raise ValueError(
            f"{where} of the very images that are evaluated, so that each is its own neighbor; "
            "leave it empty, and neighbors are sought among the others"
        )

    def read(rows: np.ndarray) -> np.ndarray:
        return shards.read(rows, np.zeros(len(rows), bool))

    found = {"neighbors": count, "among": among, "path": path}
    return Neighbors(count, read, len(shards)), found
