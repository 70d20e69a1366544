"""Float8 products beside bfloat16 ones: how exact they are, and the losses of short runs.

    python -m benchmarks.float8_study accuracy
    python -m benchmarks.float8_study digits --latents=outputs/demo/latents

`accuracy`: relative errors (2-norms) of one velocity and of one gradient of a generator with random
weights, against float32; scales are known from a step before. `digits`: the demo's generator, whose
latents `make demo` makes, in bfloat16 with and without compute.products=float8, for several seeds
that share data, noise and fresh weights. On a CPU float8 is emulated: seconds say nothing.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.arguments import need_demo
from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.configs import digits_dit
from lightningdit_jax.models.float8 import (
    fresh_histories,
    remembered,
    with_scales,
    without_scales,
)
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.training.dit_step import make_dit_loss
from lightningdit_jax.training.run import train

TYPES = {
    "bfloat16": {"dtype": jnp.bfloat16},
    "bfloat16, products in float8": {"dtype": jnp.bfloat16, "products": "float8"},
    "float32, products in float8": {"dtype": jnp.float32, "products": "float8"},
}


def accuracy() -> dict[str, Any]:
    """Relative errors by type."""
    sizes = {"hidden_size": 384, "num_heads": 6, "depth": 8, "in_channels": 32, "input_size": 8}
    config = configs.from_dict(digits_dit.get_config()).changed(model=sizes)
    architecture, rng = generator_config(config), np.random.default_rng(0)
    shape = (16, architecture.input_size, architecture.input_size, architecture.in_channels)
    x1, x0 = rng.normal(size=(2, *shape)).astype(np.float32)
    t, y = rng.random(16, np.float32), np.arange(16) % 10

    def run(weights: Any = None, **options: Any) -> tuple[Any, Any, Any]:
        model = LightningDiT(architecture, attention="xla", rngs=nnx.Rngs(0), **options)
        graphdef, histories = nnx.graphdef(model), fresh_histories(model)
        if weights is None:
            weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
            # Zero gates and a zero output, as a fresh model has them, would hide the blocks.
            weights = jax.tree.map(
                lambda w: w + rng.normal(0, 0.03, w.shape).astype(np.float32), weights
            )
        loss = make_dit_loss(graphdef, 0.0)
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        for _ in range(2 if histories else 1):
            joined = with_scales(weights, histories)
            gradient, largest = without_scales(step(joined, x1, x0, t, y)[1])
            velocity = jax.jit(lambda p: nnx.merge(graphdef, p)(x0, t, y))(joined)
            histories = jax.tree.map(remembered, histories, largest)
        return weights, velocity, gradient

    weights, *exact = run(dtype=jnp.float32)
    found = {}
    print("| | velocity | gradient |\n|---|---|---|")
    for name, options in TYPES.items():
        got = run(weights, **options)[1:]
        errors = [_distance(a, b) for a, b in zip(got, exact, strict=True)]
        found[name] = dict(zip(("velocity", "gradient"), errors, strict=True))
        print(f"| {name} | {errors[0]:.2%} | {errors[1]:.2%} |", flush=True)
    return found


def _distance(got: Any, want: Any) -> float:
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    off, size = 0.0, 0.0
    for a, b in pairs:
        off += float(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum())
        size += float(np.square(np.asarray(b, np.float64)).sum())
    return (off / size) ** 0.5


def digits(options: argparse.Namespace) -> dict[str, Any]:
    """Losses of windows of 50 steps, by products and seed."""
    steps = options.steps
    losses: dict[str, list[list[float]]] = {"dtype": [], "float8": []}
    for seed in range(options.seeds):
        for products, rows in losses.items():
            config = configs.from_dict(digits_dit.get_config()).changed(
                compute={"dtype": "bfloat16", "products": products},
                model={"depth": options.depth},
                data={"path": options.latents},
                train={
                    **{"num_steps": steps, "checkpoint_every_steps": steps},
                    **{"batch_size": options.batch_size, "log_every_steps": 50},
                },
            )
            config = dataclasses.replace(config, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                train(config, folder)
                records = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
            rows.append([json.loads(record)["loss"] for record in records])
    plain, float8 = (np.array(losses[products]) for products in ("dtype", "float8"))
    print("| steps | bfloat16 | float8 | float8 - bfloat16, same seed | between seeds |")
    print("|" + "---|" * 5)
    for window in range(plain.shape[1]):
        off = float8[:, window] - plain[:, window]
        print(
            f"| {50 * window + 1} to {50 * (window + 1)} | {plain[:, window].mean():.4f} | "
            f"{float8[:, window].mean():.4f} | {off.mean():+.4f} ({off.min():+.4f} to "
            f"{off.max():+.4f}) | {plain[:, window].std(ddof=1):.4f} |"
        )
    return losses


def main() -> None:
    """One of the two, printed as a table and written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("accuracy", "digits"))
    parser.add_argument("--latents", default="outputs/demo/latents")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="outputs/benchmarks/float8_study.json")
    options = parser.parse_args()
    if options.what == "digits":
        need_demo(parser, options.latents)
    result = accuracy() if options.what == "accuracy" else digits(options)
    write_json(options.output, {options.what: result})


if __name__ == "__main__":
    main()
