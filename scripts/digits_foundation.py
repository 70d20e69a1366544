"""The demo's stand-in for a vision foundation model: a small ViT that reads handwritten digits.

python scripts/digits_foundation.py --output=outputs/demo/foundation

No foundation model comes without a download, and none has seen 16x16 pixels. So this one learns to
tell the training digits apart; its patch features, like those of DINOv2, say what is to be seen
rather than how bright it is. Writes a checkpoint of kind "vit".
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIDE, STEPS, BATCH = 16, 400, 128


def digits(split: str) -> tuple[Any, Any]:
    """Images float32 [N, 16, 16, 3] in [-1, 1] and labels [N]."""
    import numpy as np

    from lightningdit_jax.data.digits import Digits

    source = Digits(split, SIDE)
    images = np.stack([np.asarray(source.image(i)) for i in range(len(source))])
    return images.astype(np.float32) / 127.5 - 1, np.asarray(source.labels)


def fit(images: Any, labels: Any) -> tuple[Any, Any, Any]:
    """(config, graphdef, parameters) of the ViT, trained with a linear head on its mean feature."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from lightningdit_jax.models.vit import ViT
    from lightningdit_jax.models.vit_config import ViTConfig

    config = ViTConfig(
        patch_size=4,
        hidden_size=48,
        depth=2,
        num_heads=4,
        mlp_hidden=96,
        pos_embed_grid=SIDE // 4,
        layer_scale=False,
        num_registers=0,
        class_pos_embed=True,
    )
    rngs = nnx.Rngs(0)
    graphdef, params = nnx.split(ViT(config, rngs=rngs), nnx.Param)
    head = nnx.Linear(config.hidden_size, 10, rngs=rngs)
    head_graphdef, head_params = nnx.split(head, nnx.Param)
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, STEPS), weight_decay=0.05)

    def loss(both: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        features = nnx.merge(graphdef, both[0])(images).mean((1, 2))
        logits = nnx.merge(head_graphdef, both[1])(features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(both: Any, state: Any, index: jax.Array) -> tuple[Any, Any]:
        key = jax.random.fold_in(jax.random.key(0), index)
        rows = jax.random.randint(key, (BATCH,), 0, len(images))
        gradients = jax.grad(loss)(both, jnp.asarray(images)[rows], jnp.asarray(labels)[rows])
        updates, state = optimizer.update(gradients, state, both)
        return optax.apply_updates(both, updates), state

    both = (params, head_params)
    state = optimizer.init(both)
    for index in range(STEPS):
        both, state = step(both, state, index)

    test_images, test_labels = digits("test")
    features = nnx.merge(graphdef, both[0])(test_images).mean((1, 2))
    guesses = nnx.merge(head_graphdef, both[1])(features).argmax(-1)
    print(f"a ViT that tells {(guesses == test_labels).mean():.3f} of the held-out digits apart")
    return config, graphdef, nnx.to_pure_dict(both[0])


def main() -> None:
    """Trains and writes the checkpoint."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from absl import logging

    from lightningdit_jax.checkpoint import FORMAT_VERSION, save_checkpoint

    logging.set_verbosity(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=pathlib.Path, help="checkpoint to write")
    output = parser.parse_args().output
    config, _, params = fit(*digits("train"))
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": "vit",
        "architecture": dataclasses.asdict(config),
        "step": STEPS,
    }
    shutil.rmtree(output, ignore_errors=True)
    save_checkpoint(str(output), {"params": params}, {"meta": meta})


if __name__ == "__main__":
    main()
