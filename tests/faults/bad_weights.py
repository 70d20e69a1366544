"""A copy of a workdir's newest checkpoint with one weight changed: SOURCE TARGET VALUE.

Runs in a fork of its own. The program saves it, so its digests are those of what is in it.
"""

import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from lightningdit_jax import checkpoint
from lightningdit_jax.checkpoint_reading import read_json


def main(source, target, value):
    found = checkpoint.find_checkpoint(source)
    reader, trees, texts = ocp.StandardCheckpointer(), {}, {}
    for item in checkpoint.item_names(found):
        if (found / item / "metadata").exists():
            texts[item] = read_json(found, item)
            continue
        tree = jax.tree.map(np.array, reader.restore(found / item))
        if item in ("params", "ema"):
            leaf = max(jax.tree.leaves(tree), key=lambda leaf: leaf.size)
            leaf.flat[:: leaf.size // 7] = float(value)
        trees[item] = tree
    pathlib.Path(target, "checkpoints").mkdir(parents=True)
    path = pathlib.Path(target, "checkpoints", found.name)
    checkpoint.save_checkpoint(str(path), trees, texts)


if __name__ == "__main__":
    main(*sys.argv[1:])
