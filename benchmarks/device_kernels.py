"""What an accelerator makes of a generator's kernels alone: copies, products, attention.

    python -m benchmarks.device_kernels
    python -m benchmarks.device_kernels --rows=512 --width=96 --hidden=256 --heads=4   # anywhere

Shapes are those of XL/1 with 128 images. A row is the median of --rounds times --calls calls.
"products" are those of one layer by what they are for, in bfloat16 and in float8 as
compute.products=float8 has them (the library's are asked for on GPUs); "attention" is each
implementation that there is, forwards and with its gradients.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.models.attention import attention
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.topology import compiler_options

TOKENS = 256  # of an image
E4M3, E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2


def seconds_of(call: Callable[..., Any], inputs: tuple, options: argparse.Namespace) -> float:
    """Of one call, queued behind others."""
    jax.block_until_ready(call(*inputs))
    taken = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        for _ in range(options.calls):
            out = call(*inputs)
        jax.block_until_ready(out)
        taken.append((time.perf_counter() - began) / options.calls)
    return statistics.median(taken)


def array(dtype: Any, *shape: int) -> jax.Array:
    """Random numbers: power, and with it the clock, depends on them."""
    return jax.random.normal(jax.random.key(sum(shape)), shape, jnp.bfloat16).astype(dtype)


def copies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes read and written a second."""
    x = array(jnp.bfloat16, options.rows, 16 * options.width)
    seconds = seconds_of(jax.jit(lambda x: x + 1), (x,), options)
    return [{"kernel": "copy", "seconds": seconds, "bytes_per_second": 2 * x.nbytes / seconds}]


def products(options: argparse.Namespace) -> list[dict[str, Any]]:
    """FLOP/s of the products of a layer."""
    rows, width, hidden = options.rows, options.width, options.hidden
    shapes = {  # [M, K] by [N, K]
        "q, k, v, proj and their inputs' gradients": (rows, width, width),
        "w12": (rows, width, hidden),
        "w3": (rows, hidden, width),
        "gradient of q's kernel": (width, rows, width),
        "gradient of w12's and w3's kernels": (width, rows, hidden),
    }
    rules = compiler_options(make_mesh(devices=jax.devices()[:1]), float8=True)

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))

    def multiply_float8(a: jax.Array, b: jax.Array) -> jax.Array:
        half = jnp.bfloat16(0.5)
        return multiply(a.astype(jnp.bfloat16) * half, b.astype(jnp.bfloat16) * half)

    found = []
    for name, (m, k, n) in shapes.items():
        second = E5M2 if "gradient of" in name else E4M3
        for kind, call, types in (
            ("bfloat16", jax.jit(multiply), (jnp.bfloat16, jnp.bfloat16)),
            ("float8", jax.jit(multiply_float8, compiler_options=rules), (E4M3, second)),
        ):
            seconds = seconds_of(call, (array(types[0], m, k), array(types[1], n, k)), options)
            row = {"kernel": name, "type": kind, "shape": (m, k, n), "seconds": seconds}
            found.append(row | {"flops": 2 * m * k * n / seconds})
    return found


def attentions(options: argparse.Namespace) -> list[dict[str, Any]]:
    """FLOP/s of attention: two products forwards, seven with gradients."""
    head = options.width // options.heads
    shape = (options.rows // TOKENS, TOKENS, options.heads, head)
    # XLA for CPUs has no such product of bfloat16 alone, but only in programs of more.
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    inputs = tuple(array(dtype, *shape) for _ in range(3))
    calls = {"xla": attention}
    if jax.default_backend() == "gpu":
        calls["cudnn"] = lambda *qkv: jax.nn.dot_product_attention(*qkv, implementation="cudnn")
    rules = compiler_options(make_mesh(devices=jax.devices()[:1]))
    each = 2 * options.rows * TOKENS * options.width  # of one product
    found = []
    for name, call in calls.items():

        def gradients(*qkv: jax.Array, call: Callable = call) -> Any:
            out, vjp = jax.vjp(call, *qkv)
            return vjp(out)

        for kind, run, count in (("forward", call, 2), ("with gradients", gradients, 7)):
            seconds = seconds_of(jax.jit(run, compiler_options=rules), inputs, options)
            row = {"kernel": f"attention ({name})", "type": kind, "seconds": seconds}
            found.append(row | {"flops": count * each / seconds})
    return found


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=128 * TOKENS, help="tokens of all images")
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=50, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="outputs/benchmarks/device_kernels.json")
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"{device}\n| kernel | | ms | TFLOP/s or TB/s |\n|---|---|---|---|")
    rows = []
    for measure in (copies, products, attentions):
        for row in measure(options):
            rows.append(row)
            rate = row.get("flops", row.get("bytes_per_second"))
            print(
                f"| {row['kernel']} | {row.get('type', '')} | {row['seconds'] * 1e3:.3f} | "
                f"{rate / 1e12:.3f} |",
                flush=True,
            )
    write_json(options.output, {"device": device, "kernels": rows})


if __name__ == "__main__":
    main()
