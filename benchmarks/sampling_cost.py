"""What sampling costs: arithmetic of every row of the paper, and what skipping guidance saves.

    python -m benchmarks.sampling_cost rows
    python -m benchmarks.sampling_cost skip

`rows` prints evaluations and TFLOP per image of each row of configs/paper.py, and the hours that
its samples take one H100 at 40 % of its bfloat16 peak: arithmetic, nothing is run. `skip` times the
sampler on this machine with guidance everywhere and with the 800-epoch recipe's interval, in turn,
on a small generator with random weights, and prints the ratio beside the one the arithmetic says.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.configs import paper
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.parallel.mesh import make_mesh

H100_PEAK = 989e12  # bfloat16 FLOP/s without sparsity, NVIDIA's data sheet
UTILIZATION = 0.4
PUBLISHED = Sampling(
    num_steps=250,
    cfg_scale=6.7,
    cfg_interval_start=0.125,
    timestep_shift=0.3,
)


def print_rows() -> dict[str, Any]:
    """Arithmetic of every row; dopri5 chooses its own number of evaluations."""
    print("| row | samples | evaluations | guided | TFLOP per image | hours, one H100 at 40 % |")
    print("|---|---|---|---|---|---|")
    results = {}
    for row in paper.rows():
        config = configs.from_dict(paper.get_config(row))
        sampling, forward = Sampling.of(config.sample), forward_flops(generator_config(config))
        evaluations, guided = sampling.evaluations(), sampling.guided_evaluations(Flow())
        if evaluations is None:
            print(f"| {row} | {config.sample.num_samples:,} | adaptive | | | |")
            continue
        flops = forward * sampling.forward_passes(Flow())
        hours = flops * config.sample.num_samples / (H100_PEAK * UTILIZATION) / 3600
        results[row] = {
            "evaluations": evaluations,
            "guided": guided,
            "flops": flops,
            "hours": hours,
        }
        print(
            f"| {row} | {config.sample.num_samples:,} | {evaluations} | {guided} | "
            f"{flops / 1e12:.1f} | {hours:.2f} |"
        )
    return results


def measure_skip(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one batch with guidance everywhere and on its interval."""
    everywhere = dataclasses.replace(PUBLISHED, num_steps=options.num_steps, cfg_interval_start=0.0)
    interval = dataclasses.replace(PUBLISHED, num_steps=options.num_steps)
    sampler = _sampler(options.depth, options.width, options.batch_size)
    labels = np.arange(options.batch_size) % 1000

    def seconds(sampling: Sampling) -> float:
        began = time.perf_counter()
        for _ in sampler.batches(labels, labels, sampling, seed=0):
            pass
        return time.perf_counter() - began

    seconds(everywhere), seconds(interval)
    rounds = [(seconds(everywhere), seconds(interval)) for _ in range(options.rounds)]
    ratios = [a / b for a, b in rounds]
    counts = [s.forward_passes(Flow()) for s in (everywhere, interval)]
    result = {
        "device": jax.devices()[0].device_kind,
        "load": os.getloadavg()[0],
        "seconds_everywhere": statistics.median(a for a, _ in rounds),
        "seconds_interval": statistics.median(b for _, b in rounds),
        "speedup": statistics.median(ratios),
        "speedups": ratios,
        "arithmetic_speedup": counts[0] / counts[1],
    }
    print(json.dumps(result, indent=1))
    return result


def _sampler(depth: int, width: int, batch_size: int) -> Sampler:
    """Random weights: XL/1's tokens and channels in a smaller model, and a tiny decoder."""
    config = configs.from_dict(paper.get_config("xl_800ep_cfg"))
    sizes = {"depth": depth, "hidden_size": width, "num_heads": width // 64}
    architecture = generator_config(config.changed(model=sizes))
    dit = LightningDiT(architecture, rngs=nnx.Rngs(0))
    vae = VAVAE(VAVAEConfig(16, 3, 32, (1,), 1, (), (), 32, 32), rngs=nnx.Rngs(1))
    (dit_graph, dit_params), (vae_graph, vae_params) = (
        nnx.split(module, nnx.Param) for module in (dit, vae)
    )
    structure = Structure(dit_graph, vae_graph, architecture, LatentScaling())
    return Sampler(structure, {"dit": dit_params, "vae": vae_params}, make_mesh(), batch_size)


def main() -> None:
    """One of the two, printed and written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rows", "skip"))
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    result = print_rows() if options.what == "rows" else measure_skip(options)
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
