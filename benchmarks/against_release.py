"""This project and the PyTorch release on the same machine: seconds of the same work, in turn.

    python -m benchmarks.against_release --release=CHECKOUT
    python -m benchmarks.against_release --release=CHECKOUT --cases=train,sample --torch-compile

CHECKOUT is a clone of github.com/hustvl/LightningDiT, whose imports torch, timm, torchdiffeq and
fairscale are needed too. Float32, as many threads each as there are cores, random weights:

    train    one step of B/2 on eight 32x32x4 latents: loss, gradients, AdamW, average
    sample   ten Euler steps of two images with the 800-epoch recipe's guidance, B/2, no decoding;
             the release evaluates both halves everywhere, here the unconditional one is skipped
             where it is off
    encode   VA-VAE f16d32, one image of 256x256 to its moments
    decode   the same, latents to the image

Each side has a process of its own, so that neither's threads and memory are in the other's way.
After a warm-up the two take turns `--rounds` times, and of each turn the second call counts; the
table has medians and the median of the ratios, and two floors: the work's arithmetic at the speed
of a large product of NumPy's, and the bytes it cannot do without (parameters once an evaluation;
in training parameters, moments and average read and written) at that of a copy, both measured at
the start. The release runs eagerly unless --torch-compile leaves its torch.compile decorators on.
"""

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import floors
from benchmarks.release_model import release_generator, release_train_step
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling

BATCH, SAMPLES = 8, 2
SIDE, CHANNELS = 32, 4
STEPS = 11
PUBLISHED = {"cfg_scale": 6.7, "cfg_interval_start": 0.125, "timestep_shift": 0.3}
Work = Callable[[], object]


def our_train() -> Work:
    """One call is one step."""
    return our_step()[0]


def our_step(depth: int = 12) -> tuple[Work, str, float]:
    """A train step of B/2 as work, its optimized program as text, and the model's FLOPs in it."""
    import jax

    from lightningdit_jax import config as configs
    from lightningdit_jax.assembly.models import generator_config
    from lightningdit_jax.configs import paper
    from lightningdit_jax.models.flops import forward_flops
    from lightningdit_jax.parallel.mesh import make_mesh
    from lightningdit_jax.training.job import abstract_generator_job
    from lightningdit_jax.training.optimizer import make_optimizer
    from lightningdit_jax.training.run import compile_ready

    config = configs.from_dict(paper.get_config("ladder_rope"))
    config = config.changed(
        model={"variant": "B/2", "depth": depth},
        compute={"dtype": "float32", "scan_unroll": depth, "remat": "none"},
        train={"batch_size": BATCH, "accumulate_steps": 1},
    )
    mesh = make_mesh()
    job = abstract_generator_job(config, mesh)
    init_state, step_fn, _ = compile_ready(
        job, config, mesh, make_optimizer(config.optimizer, config.train.num_steps)
    )
    state = init_state()
    rng = np.random.default_rng(0)
    batch = {
        "latents": rng.standard_normal((BATCH, CHANNELS, SIDE, SIDE), np.float32),
        "labels": np.arange(BATCH, dtype=np.int32),
    }
    step = step_fn.lower(state, batch).compile()

    def work() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return work, step.as_text(), 3 * BATCH * forward_flops(generator_config(config))


def our_sample() -> Work:
    """One call is all steps."""
    return our_sampler()[0]


def our_sampler(depth: int = 12) -> tuple[Work, str, float]:
    """Sampling with B/2 as work, its optimized program as text, and the model's FLOPs in it."""
    import jax
    from flax import nnx

    from lightningdit_jax import config as configs
    from lightningdit_jax.assembly.models import generator_config
    from lightningdit_jax.configs import paper
    from lightningdit_jax.flow.guidance import guide
    from lightningdit_jax.flow.ode import integrate
    from lightningdit_jax.flow.timesteps import time_grid
    from lightningdit_jax.models.flops import forward_flops
    from lightningdit_jax.models.lightningdit import LightningDiT
    from lightningdit_jax.parallel.mesh import make_mesh
    from lightningdit_jax.parallel.topology import compiler_options

    config = configs.from_dict(paper.get_config("ladder_rope"))
    model = generator_config(config.changed(model={"variant": "B/2", "depth": depth}))
    graphdef, params = nnx.split(LightningDiT(model, scan_unroll=depth, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((SAMPLES, SIDE, SIDE, CHANNELS), np.float32)
    labels = np.arange(SAMPLES)

    @functools.partial(jax.jit, compiler_options=compiler_options(make_mesh()))
    def sample(params, noise, labels):
        guided = guide(
            lambda x, t, y: nnx.merge(graphdef, params)(x, t, y),
            labels,
            1000,
            cfg_scale=PUBLISHED["cfg_scale"],
            interval_start=PUBLISHED["cfg_interval_start"],
        )
        return integrate("euler", guided, noise, time_grid(STEPS, PUBLISHED["timestep_shift"]))

    compiled = sample.lower(params, noise, labels).compile()
    sampling = Sampling(num_steps=STEPS, **PUBLISHED)
    flops = SAMPLES * sampling.forward_passes(Flow()) * forward_flops(model)

    def work() -> None:
        compiled(params, noise, labels).block_until_ready()

    return work, compiled.as_text(), flops


def our_tokenizer(method: str) -> Work:
    """One call is one image."""
    from flax import nnx

    from lightningdit_jax import config as configs
    from lightningdit_jax.assembly.models import tokenizer_config
    from lightningdit_jax.configs import vavae_f16d32
    from lightningdit_jax.models.vae import VAVAE
    from lightningdit_jax.parallel.batch_function import jit_batches
    from lightningdit_jax.parallel.mesh import make_mesh

    architecture = tokenizer_config(configs.from_dict(vavae_f16d32.get_config()))
    graphdef, params = nnx.split(VAVAE(architecture, rngs=nnx.Rngs(0)))
    shape = (1, 256, 256, 3) if method == "encode" else (1, 16, 16, 32)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)

    def run(params, x):
        out = getattr(nnx.merge(graphdef, params), method)(x)
        return out.mean if method == "encode" else out

    program = jit_batches(run, make_mesh())
    return lambda: program(params, x).block_until_ready()


def their_train() -> Work:
    """As their train.py without its data, processes and mixed precision."""
    import torch

    x, y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.arange(BATCH)
    return release_train_step(_their_generator().train(), x, y)


def their_sample() -> Work:
    """As their inference.py: both halves of the batch at every step."""
    import torch
    from transport import Sampler, create_transport

    model = _their_generator().eval()
    transport = create_transport("Linear", "velocity", None, None, None)
    sample_fn = Sampler(transport).sample_ode(
        sampling_method="euler",
        num_steps=STEPS,
        atol=1e-6,
        rtol=1e-3,
        reverse=False,
        timestep_shift=PUBLISHED["timestep_shift"],
    )
    noise = torch.randn(SAMPLES, CHANNELS, SIDE, SIDE)
    arguments = {
        "y": torch.cat([torch.arange(SAMPLES), torch.full((SAMPLES,), 1000)]),
        "cfg_scale": PUBLISHED["cfg_scale"],
        "cfg_interval": True,
        "cfg_interval_start": PUBLISHED["cfg_interval_start"],
    }

    def work() -> None:
        with torch.no_grad():
            sample_fn(torch.cat([noise, noise]), model.forward_with_cfg, **arguments)

    return work


def _their_generator() -> Any:
    return release_generator("B/2", input_size=SIDE, in_channels=CHANNELS)


def their_tokenizer(method: str) -> Work:
    """One call is one image."""
    import torch
    from tokenizer.autoencoder import AutoencoderKL

    vae = AutoencoderKL(embed_dim=32, ch_mult=(1, 1, 2, 2, 4)).eval()
    x = torch.randn((1, 3, 256, 256) if method == "encode" else (1, 32, 16, 16))

    def work() -> None:
        with torch.no_grad():
            getattr(vae, method)(x)

    return work


CASES: dict[str, tuple[Callable[[], Work], Callable[[], Work]]] = {
    "train": (our_train, their_train),
    "sample": (our_sample, their_sample),
    "encode": (lambda: our_tokenizer("encode"), lambda: their_tokenizer("encode")),
    "decode": (lambda: our_tokenizer("decode"), lambda: their_tokenizer("decode")),
}


def serve(connection: Connection, case: str, side: int, release: str) -> None:
    """A process that does one side's work whenever it is asked to, and answers how long it took."""
    if side == 1:
        sys.path.insert(0, release)
        import torch

        torch.set_num_threads(os.cpu_count())
    work = CASES[case][side]()
    while connection.recv():
        work()  # what the machine did with this process's memory in the other's turn is no matter
        began = time.perf_counter()
        work()
        connection.send(time.perf_counter() - began)


class Side:
    """The other end of `serve`."""

    def __init__(self, case: str, side: int, release: str):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, case, side, release))
        self._process.start()
        theirs.close()

    def seconds(self) -> float:
        """Of the second call in this turn. Raises EOFError if the process has died."""
        self._connection.send(True)
        return self._connection.recv()

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(False)
        self._process.join()


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", required=True, help="checkout of hustvl/LightningDiT")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--output", default="outputs/benchmarks/against_release.json")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not options.torch_compile:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    results = {}
    flops_per_second, bytes_per_second = floors.speeds()
    print(f"{flops_per_second / 1e9:.0f} GFLOP/s in products, {bytes_per_second / 1e9:.1f} GB/s")
    print(
        "| work | this project, s | release, s | times as fast | arithmetic floor, s | "
        "byte floor, s | load |"
    )
    print("|" + "---|" * 7)
    for case in options.cases.split(","):
        ours, theirs = (Side(case, side, options.release) for side in (0, 1))
        for side in (ours, theirs):
            side.seconds()
        rounds, loads = [], []
        for _ in range(options.rounds):
            rounds.append((ours.seconds(), theirs.seconds()))
            loads.append(os.getloadavg()[0])
        ours.close(), theirs.close()
        mine, other = (statistics.median(column) for column in zip(*rounds))
        ratio = statistics.median(b / a for a, b in rounds)
        images = {"train": BATCH, "sample": SAMPLES}.get(case, 1)
        flops, least_bytes = floors.needs(case, images, Sampling(num_steps=STEPS, **PUBLISHED))
        least = flops / flops_per_second, least_bytes / bytes_per_second
        results[case] = {
            "ours": mine,
            "release": other,
            "ratio": ratio,
            "rounds": rounds,
            "arithmetic_floor": least[0],
            "byte_floor": least[1],
        }
        print(
            f"| {case} | {mine:.3f} | {other:.3f} | {ratio:.2f} | {least[0]:.2f} | "
            f"{least[1]:.2f} | {max(loads):.1f} |",
            flush=True,
        )
    described = {
        "cores": os.cpu_count(),
        "torch_compile": options.torch_compile,
        "flops_per_second": flops_per_second,
        "bytes_per_second": bytes_per_second,
    }
    write_json(options.output, {**described, "results": results})


if __name__ == "__main__":
    main()
