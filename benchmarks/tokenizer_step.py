"""What a train step of the tokenizer costs, component by component.

    python -m benchmarks.tokenizer_step time --size=64 --batch-size=2 --dtype=float32
    python -m benchmarks.tokenizer_step memory --topology=v5e:4x4 --remat=none,block --effort=quick

`time` runs steps of configs/vavae_f16d32.py on the devices that there are, with random weights of
the published architectures: all components in turn, `--rounds` times; the table has the medians.
`memory` compiles them ahead of time for a TPU slice that need not be there (the extra `tpu`, on a
machine without TPUs, one process at a time): minutes with --effort=quick, for memory, and more than
20 without.
Components add up: each row has the losses of the rows above it.
"""

import argparse
import os
import platform
import statistics
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.arguments import names, numbers
from lightningdit_jax import config as configs
from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.configs import vavae_f16d32
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.compile import compile_report
from lightningdit_jax.training.frozen import abstract_frozen_networks
from lightningdit_jax.training.job import abstract_tokenizer_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from lightningdit_jax.training.vae_flops import vae_step_flops

NO_ALIGNMENT = {"alignment": "none"}
NO_ADVERSARY = {**NO_ALIGNMENT, "disc_weight": 0.0}
COMPONENTS = {  # changes of config.vae_loss
    "autoencoder": {**NO_ADVERSARY, "perceptual_weight": 0.0},
    "+ LPIPS": NO_ADVERSARY,
    "+ adversary": NO_ALIGNMENT,
    "+ alignment": {},
}


def component_config(component: str, **sections: dict[str, Any]) -> Config:
    """f16d32 with the losses of a component, and changes by section."""
    config = configs.from_dict(vavae_f16d32.get_config())
    return config.changed(**{"vae_loss": COMPONENTS[component], **sections})


class Step:
    """A compiled step with a state of its own and one random batch."""

    def __init__(self, config: Config, size: int):
        mesh = make_mesh()
        job = abstract_tokenizer_job(config, mesh)
        init_state, step_fn, _ = compile_ready(
            job, config, mesh, make_optimizer(config.optimizer, config.train.num_steps)
        )
        rng = np.random.default_rng(0)
        shape = (config.train.batch_size, size, size, config.tokenizer.in_channels)
        self.batch = {"images": rng.integers(0, 256, shape, np.uint8)}
        frozen = abstract_frozen_networks(config, mesh)
        weights = {name: _random_weights(network.config) for name, network in frozen.items()}
        self.frozen = (weights,) if weights else ()
        self.state = init_state()
        began = time.perf_counter()
        self.step = step_fn.lower(self.state, self.batch, *self.frozen).compile()
        self.compile_seconds = time.perf_counter() - began
        memory = self.step.memory_analysis()
        self.peak_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def seconds(self) -> float:
        """Runs it once."""
        began = time.perf_counter()
        self.state, metrics = self.step(self.state, self.batch, *self.frozen)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - began


def measure_time(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step on this machine's devices."""
    sections = {
        "compute": {"dtype": options.dtype, "remat": options.remat},
        "train": {"batch_size": options.batch_size},
    }
    steps = {
        name: Step(component_config(name, **sections), options.size) for name in options.components
    }
    for step in steps.values():
        step.seconds()
    loads, rounds = [], []
    for _ in range(options.rounds):
        rounds.append({name: step.seconds() for name, step in steps.items()})
        loads.append(os.getloadavg()[0])
    print(f"{jax.devices()[0].device_kind}, load {min(loads):.1f} to {max(loads):.1f}")
    print("| losses | s/step | fastest | peak GiB | compile s |")
    print("|---|---|---|---|---|")
    results = []
    for name, step in steps.items():
        taken = [measured[name] for measured in rounds]
        results.append(
            {
                "component": name,
                "seconds": statistics.median(taken),
                "fastest_seconds": min(taken),
                "peak_bytes": step.peak_bytes,
                "compile_seconds": step.compile_seconds,
            }
        )
        print(
            f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} | "
            f"{step.peak_bytes / 2**30:.1f} | {step.compile_seconds:.0f} |",
            flush=True,
        )
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": loads,
        "size": options.size,
        **sections,
        "results": results,
    }


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes, FLOPs and estimated seconds of a step on a slice."""
    results = []
    for name in options.components:
        for fsdp in options.fsdp:
            for remat in options.remat:
                config = component_config(
                    name,
                    compute={
                        "dtype": options.dtype,
                        "remat": remat,
                        "compile_effort": options.effort,
                    },
                    mesh={"fsdp": fsdp},
                    train={"batch_size": options.batch_size},
                )
                try:
                    report = compile_report(config, options.topology)
                except ValueError as error:  # does not fit
                    report = {"remat": remat, "mesh": {"fsdp": fsdp}, "error": str(error)}
                results.append({"component": name, **report})
                print(_memory_row(results[-1]), flush=True)
                write_json(options.output, {"results": results})
    print(
        "| losses | fsdp | remat | effort | peak GiB | model TFLOP | matmul / model | step ms "
        "| compile s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(_memory_row(row) for row in results))
    frozen_of = abstract_frozen_networks(component_config("+ alignment"), make_mesh())
    flops = vae_step_flops(component_config("+ alignment"), frozen_of)
    return {"step_flops_per_image": flops, "results": results}


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    common.add_argument("--components", type=names, default=list(COMPONENTS))
    common.add_argument("--output", default="outputs/benchmarks/tokenizer_step.json")
    ways = parser.add_subparsers(dest="what", required=True)
    timing = ways.add_parser("time", parents=[common])
    timing.add_argument("--size", type=int, default=256, help="height and width of the images")
    timing.add_argument("--batch-size", type=int, default=8)
    timing.add_argument("--remat", default="none")
    timing.add_argument("--rounds", type=int, default=5)
    timing.set_defaults(measure=measure_time)
    memory = ways.add_parser("memory", parents=[common])
    memory.add_argument("--topology", default="v5e:4x4")
    memory.add_argument("--batch-size", type=int, default=256, help="global")
    memory.add_argument("--remat", type=names, default=["none", "conv", "block"])
    memory.add_argument("--fsdp", type=numbers, default=[1])
    memory.add_argument("--effort", default="full", choices=("full", "quick"))
    memory.set_defaults(measure=measure_memory)
    options = parser.parse_args()
    write_json(options.output, options.measure(options))


def _random_weights(network: Any) -> Any:
    kind = next(kind for kind in ("lpips", "vit") if isinstance(network, MODELS[kind].config))
    module = MODELS[kind].module(network, rngs=nnx.Rngs(0))
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def _memory_row(row: dict[str, Any]) -> str:
    label = f"| {row['component']} | {row['mesh']['fsdp']} | {row['remat']} |"
    if "error" in row:
        return f"{label} {row['error']} |"
    return (
        f"{label} {row['compile_effort']} | {row['peak_bytes'] / 2**30:.1f} | "
        f"{row['model_flops'] / 1e12:.1f} | "
        f"{row['matmul_flops'] / row['model_flops']:.2f} | {row['step_seconds'] * 1e3:.0f} | "
        f"{row['compile_seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
