"""A generator trained by a loop of your own: every line that matters, to change as you like.

    python examples/training_loop.py --latents=outputs/demo/latents --output=outputs/examples/dit

The published recipe at the size of configs/digits_dit.py: flow matching with the cosine term, times
of the logit-normal law, dropped labels, AdamW, averaged weights. Its losses are those of
`python main.py --config=configs/digits_dit.py`, step by step; that adds meshes, exact resume,
evaluation and guards. OUTPUT is a checkpoint that ldj.load and every command take.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import from_dict
from lightningdit_jax.configs import digits_dit
from lightningdit_jax.data.latents import LatentShards, load_stats
from lightningdit_jax.data.pipeline import LatentBatches, make_pipeline
from lightningdit_jax.flow.losses import flow_loss
from lightningdit_jax.flow.paths import LinearPath
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.flow.timesteps import sample_timesteps


def main(argv: list[str] | None = None) -> list[float]:
    """Trains and saves. -> the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", required=True, help="folder that --mode=extract wrote")
    parser.add_argument("--output", default="outputs/examples/dit", help="checkpoint to write")
    parser.add_argument("--num-steps", type=int, default=850)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=96)
    parser.add_argument("--depth", type=int, default=5)
    options = parser.parse_args(argv)
    if pathlib.Path(options.output).exists():  # said before the work, not after it
        parser.error(f"--output={options.output} is there already; name another folder")

    config = digits_dit.get_config()
    config.model.hidden_size, config.model.depth = options.hidden_size, options.depth
    architecture = generator_config(from_dict(config))
    dit = ldj.LightningDiT(architecture, rngs=nnx.Rngs(0))
    shards, scaling = LatentShards(options.latents), load_stats(options.latents)
    dit.flow, dit.latent_scaling = Flow(), scaling  # what its checkpoint says of itself
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.linear_schedule(2e-5, 1e-3, 49), b1=0.9, b2=0.95, weight_decay=0.0),
    )
    path = LinearPath()

    def loss_fn(dit: ldj.LightningDiT, x1: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t = sample_timesteps(time_key, len(x1), "logit_normal")
        x0 = jax.random.normal(noise_key, x1.shape)
        dropped = jax.random.bernoulli(drop_key, architecture.class_dropout_prob, y.shape)
        y = jnp.where(dropped, architecture.num_classes, y)
        terms = flow_loss(dit(path.interpolate(x0, x1, t), t, y), path.velocity(x0, x1, t))
        return (terms["mse"] + terms["cosine"]).mean()

    @jax.jit
    def train_step(dit, average, state, batch, key):  # modules of Flax are pytrees
        x1 = scaling.normalize(batch["latents"])
        loss, grads = jax.value_and_grad(loss_fn)(dit, x1, batch["labels"], key)
        updates, state = optimizer.update(grads, state, dit)
        dit = optax.apply_updates(dit, updates)
        average = optax.incremental_update(dit, average, 1 - 0.99)
        return dit, average, state, loss

    pipeline = make_pipeline(
        LatentBatches(shards, scaling),
        global_batch_size=options.batch_size,
        seed=0,
        flip=False,  # digits have no mirror images
        num_threads=2,
        prefetch_batches=2,
    )
    average, state, losses = dit, optimizer.init(dit), []
    for step, batch in zip(range(options.num_steps), pipeline):
        key = jax.random.fold_in(jax.random.key(0), step)
        dit, average, state, loss = train_step(dit, average, state, batch, key)
        losses.append(loss)  # not read yet, so that the device need not wait
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)
    ldj.save(options.output, average, step=options.num_steps)
    return [float(loss) for loss in losses]


if __name__ == "__main__":
    main()
