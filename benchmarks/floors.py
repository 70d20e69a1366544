"""The least time that work of benchmarks/against_release.py can take on a machine."""

import math
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.configs import paper, vavae_f16d32
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.models.matmul_flops import matmul_flops


def speeds() -> tuple[float, float]:
    """FLOP/s of a float32 product of 2048 x 2048 with itself, bytes/s of a copy (each read and
    written byte counts): of NumPy, which is neither side's."""
    x = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    source, target = np.ones(2**26, np.float32), np.empty(2**26, np.float32)
    product = median_seconds(lambda: x @ x)
    copy = median_seconds(lambda: np.copyto(target, source))
    return 2 * 2048**3 / product, 2 * source.nbytes / copy


def median_seconds(work: Callable[[], object], rounds: int = 11) -> float:
    """Of one call."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def needs(case: str, images: int, sampling: Sampling) -> tuple[float, float]:
    """FLOPs of the products and convolutions of one call, and bytes it cannot do without.

    case: "train", "sample" (with those settings), "encode" or "decode", of so many images. Bytes:
    parameters once an evaluation; in training parameters, two moments and the average, read and
    written.
    """
    if case in ("encode", "decode"):
        architecture = tokenizer_config(configs.from_dict(vavae_f16d32.get_config()))
        graphdef, params = abstract_model("vavae", architecture)
        shape = (images, 256, 256, 3) if case == "encode" else (images, 16, 16, 32)
        x = jax.ShapeDtypeStruct(shape, np.float32)
        flops = matmul_flops(lambda p, x: getattr(nnx.merge(graphdef, p), case)(x), params, x)
        return flops, _bytes(params[f"{case}r"])
    config = configs.from_dict(paper.get_config("ladder_rope")).changed(model={"variant": "B/2"})
    architecture = generator_config(config)
    _, params = abstract_model("lightningdit", architecture)
    forward = forward_flops(architecture)
    if case == "train":
        return 3 * images * forward, 8 * _bytes(params)
    flops = images * sampling.forward_passes(Flow()) * forward
    return flops, sampling.evaluations() * _bytes(params)


def _bytes(params: nnx.State) -> int:
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
