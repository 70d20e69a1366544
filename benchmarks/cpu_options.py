"""What XLA's options for CPUs (parallel/topology.py) are worth: steps of configs/photos_64.py.

    python -m benchmarks.cpu_options

Steps compiled with our options and with others are run in turn. Random weights and data.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np

from lightningdit_jax import config as configs
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import photos_64
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.job import abstract_generator_job, abstract_tokenizer_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready

PARTS = {"tokenizer": abstract_tokenizer_job, "generator": abstract_generator_job}
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_PRODUCTS, _SUMS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", "LIBRARY_FUSION_TYPE_REDUCE"
_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
OTHERS: dict[str, dict[str, str | bool]] = {
    "ours": {},
    "XLA's own sums": {_LIBRARY: _PRODUCTS},
    "the library's convolutions, too": {_LIBRARY: f"{_PRODUCTS},{_SUMS},{_CONVOLUTIONS}"},
    "operations side by side": {"xla_cpu_enable_concurrency_optimized_scheduler": True},
}


class Step:
    """A train step compiled with options in the place of ours, with a state of its own."""

    def __init__(self, part: str, options: dict[str, str | bool]):
        config = configs.from_dict(photos_64.get_config(part)).changed(
            compute={"remat": "none"}, train={"accumulate_steps": 1}
        )
        mesh = make_mesh()
        init_state, step_fn, _ = compile_ready(
            PARTS[part](config, mesh),
            config,
            mesh,
            make_optimizer(config.optimizer, config.train.num_steps),
        )
        self._state, self._batch = init_state(), batch_of(config)
        lowered = step_fn.lower(self._state, self._batch)
        self._step = lowered.compile(compiler_options=options)

    def seconds(self) -> float:
        """Runs it once."""
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - began


def batch_of(config: Config) -> dict[str, np.ndarray]:
    """Random images, or random latents of class 0."""
    rng, count = np.random.default_rng(0), config.train.batch_size
    if config.kind == "vavae":
        side = config.tokenizer.resolution
        shape = (count, side, side, config.tokenizer.in_channels)
        return {"images": rng.integers(0, 256, shape, np.uint8)}
    side = config.model.input_size
    latents = rng.standard_normal((count, side, side, config.model.in_channels), np.float32)
    return {"latents": latents, "labels": np.zeros(count, np.int32)}


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="outputs/benchmarks/cpu_options.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    print(
        "| step of photos_64 | options | s, median | fastest | times ours |\n|---|---|---|---|---|"
    )
    for part in PARTS:
        steps = {name: Step(part, other) for name, other in OTHERS.items()}
        for step in steps.values():
            step.seconds()
        rounds = [{k: s.seconds() for k, s in steps.items()} for _ in range(options.rounds)]
        for name in steps:
            taken = [measured[name] for measured in rounds]
            ratio = np.median([measured[name] / measured["ours"] for measured in rounds])
            print(
                f"| {part} | {name} | {np.median(taken):.2f} | {min(taken):.2f} | {ratio:.2f} |",
                flush=True,
            )
            results.setdefault(part, {})[name] = taken
    write_json(options.output, results)


if __name__ == "__main__":
    main()
