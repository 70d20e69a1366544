"""What the accelerators of this machine make of training and sampling: images/s and MFU.

    python -m benchmarks.on_devices train
    python -m benchmarks.on_devices train --variants=XL/1 --batch-sizes=256 --attention=xla,cudnn
    python -m benchmarks.on_devices train --batch-sizes=1024 --accumulate=8 --products=dtype,float8
    python -m benchmarks.on_devices sample --recipe=xl_800ep_ucgm

Random weights and data of the published sizes; nothing is read, and only the table is written. A
row of `train` is the median of --rounds times --steps steps, one of `sample` that of whole batches
of a recipe of configs/paper.py, decoded, through its points of time or --num-steps. MFU is of the
model's FLOPs: recomputation does not count. What does not fit into memory is a row that says so.
Made to take a few minutes on one GPU.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.arguments import names, numbers
from benchmarks.gpu_profile import milliseconds_by_kind
from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import paper, vavae_f16d32
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.parallel.chips import chip_of
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training.job import abstract_generator_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready


def peak_flops() -> float | None:
    """Of all devices together; None where it is not known."""
    chip = chip_of(jax.devices()[0])
    return chip and chip.peak_flops * jax.device_count()


def train_row(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of the config."""
    mesh = make_mesh(fsdp=config.mesh.fsdp)
    job = abstract_generator_job(config, mesh)
    init_state, step_fn, abstract = compile_ready(
        job, config, mesh, make_optimizer(config.optimizer, config.train.num_steps)
    )
    architecture, batch_size = generator_config(config), config.train.batch_size
    rng = np.random.default_rng(0)
    side = architecture.input_size
    latents = rng.standard_normal((batch_size, architecture.in_channels, side, side), np.float32)
    batch = {"latents": latents, "labels": np.arange(batch_size, dtype=np.int32) % 1000}
    batch = jax.device_put(batch, batch_sharding(mesh))
    began = time.perf_counter()
    compiled = step_fn.lower(abstract, batch).compile()
    compile_seconds = time.perf_counter() - began
    state = init_state()

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    memory = compiled.memory_analysis()
    seconds = _median_seconds(run, options) / options.steps
    row = {
        "compile_seconds": compile_seconds,
        "peak_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "seconds": seconds,
        "images_per_second": batch_size / seconds,
        "flops": 3 * forward_flops(architecture) * batch_size / seconds,
    }
    if options.profile:
        row["milliseconds"] = milliseconds_by_kind(lambda: run(1))
    return row


def sample_row(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a batch of samples with the config's sampling."""
    architecture, tokenizer = generator_config(config), configs.from_dict(vavae_f16d32.get_config())
    dtype = jax.numpy.dtype(config.compute.dtype)
    dit = LightningDiT(
        architecture, dtype=dtype, attention=config.compute.attention, rngs=nnx.Rngs(0)
    )
    vae = VAVAE(tokenizer_config(tokenizer), dtype=dtype, rngs=nnx.Rngs(1))
    (dit_graph, dit_params), (vae_graph, vae_params) = (
        nnx.split(module, nnx.Param) for module in (dit, vae)
    )
    structure = Structure(dit_graph, vae_graph, architecture, LatentScaling())
    sampling, batch_size = Sampling.of(config.sample), config.train.batch_size
    networks = {"dit": nnx.to_pure_dict(dit_params), "vae": nnx.to_pure_dict(vae_params)}
    sampler = Sampler(structure, structure.weights(networks), make_mesh(), batch_size)
    indices = np.arange(batch_size)

    def run(batches: int) -> None:
        many = np.resize(indices, batches * batch_size)
        drawn = sampler.batches(many, many % 1000, sampling, seed=0)
        for _ in drawn:
            pass

    began = time.perf_counter()
    run(1)
    compile_seconds = time.perf_counter() - began
    seconds = _median_seconds(run, options) / options.steps
    flops = sampling.forward_passes(Flow()) * forward_flops(architecture)
    return {
        "compile_seconds": compile_seconds,
        "seconds": seconds,
        "images_per_second": batch_size / seconds,
        "flops": batch_size * flops / seconds,
    }


def _median_seconds(run: Callable[[int], None], options: argparse.Namespace) -> float:
    run(1)
    taken = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        run(options.steps)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every variant, batch size, attention and remat."""
    peak, rows = peak_flops(), []
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")
    heads = ("variant", "batch", "attention", "remat", "products", "images/s", "TFLOP/s", "MFU")
    print(f"| {' | '.join([*heads, 'GiB', 'compile s'])} |\n|{'---|' * (len(heads) + 2)}")
    asked = itertools.product(
        *(options.variants, options.batch_sizes, options.attention, options.remat, options.products)
    )
    for variant, batch, attention, remat, products in asked:
        config = configs.from_dict(paper.get_config(options.recipe)).changed(
            model={"variant": variant, "depth": options.depth},
            compute={
                "attention": attention,
                "remat": remat,
                "products": products,
                "dtype": options.dtype,
                "scan_unroll": options.unroll,
            },
            mesh={"data": -1, "fsdp": options.fsdp},
            train={"batch_size": batch, "accumulate_steps": options.accumulate},
        )
        if options.num_steps:
            config = config.changed(sample={"num_steps": options.num_steps})
        label = f"| {variant} | {batch} | {attention} | {remat} | {products} |"
        row = {"variant": variant, "batch_size": batch, "attention": attention, "remat": remat}
        row |= {"products": products, "accumulate_steps": options.accumulate}
        try:
            row |= (train_row if options.what == "train" else sample_row)(config, options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{label} out of memory | | | | |", flush=True)
            rows.append(row | {"error": "out of memory"})
            continue
        row["mfu"] = peak and row["flops"] / peak
        rows.append(row)
        mfu = f"{row['mfu']:.3f}" if peak else "unknown peak"
        held = f"{row['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in row else ""
        print(
            f"{label} {row['images_per_second']:,.1f} | {row['flops'] / 1e12:,.1f} | {mfu} | "
            f"{held} | {row['compile_seconds']:.0f} |",
            flush=True,
        )
        for kind, milliseconds in row.get("milliseconds", {}).items():
            print(f"    {milliseconds:8.1f} ms {kind}")
    return rows


def main() -> None:
    """Prints a table and writes it as JSON."""
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("train", "sample"))
    parser.add_argument("--variants", type=names, default=["XL/1", "B/1"])
    parser.add_argument("--batch-sizes", type=numbers, default=[64, 128, 192], help="global")
    parser.add_argument("--attention", type=names, default=["auto"])
    parser.add_argument("--remat", type=names, default=["none" if gpu else "dots"], help="of train")
    parser.add_argument("--unroll", type=int, default=0, help="as config.compute.scan_unroll")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--depth", type=int, help="default: the variant's")
    parser.add_argument("--products", type=names, default=["dtype"], help="of train; or float8")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch of train")
    parser.add_argument("--recipe", default="xl_800ep_cfg", help="a row of configs/paper.py")
    parser.add_argument("--num-steps", type=int, help="points of time; default: the recipe's")
    parser.add_argument("--steps", type=int, help="a round; default 10 of train, 1 of sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="a step of train by kernels, GPU")
    parser.add_argument("--output", default="outputs/benchmarks/on_devices.json")
    options = parser.parse_args()
    if options.what == "sample":
        options.remat, options.products = ["none"], ["dtype"]  # there is no backward pass
    options.steps = options.steps or (10 if options.what == "train" else 1)
    rows = measure(options)
    device = jax.devices()[0].device_kind
    write_json(
        options.output, {"device": device, "devices": jax.device_count(), options.what: rows}
    )


if __name__ == "__main__":
    main()
