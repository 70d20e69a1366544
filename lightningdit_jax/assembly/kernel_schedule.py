"""How long the kernel of models.pallas_attention takes, by the compiler's own schedule.

XLA estimates no cycles for kernels that it did not make. But its back end writes down, where its
library is told so before it is loaded, how many bundles of instructions it made of each. One is
issued a cycle; what they wait for memory is not in it. A process of its own compiles the kernel.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lightningdit_jax.assembly.models import generator_options
from lightningdit_jax.config import ComputeConfig
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.pallas_attention import BACKWARD, FORWARD, pallas_attention, unsharded
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.topology import compiler_options, open_slice

_IMAGES = 4
_BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")


def kernel_cycles(
    compute: ComputeConfig, architecture: LightningDiTConfig, mesh: Mesh, topology: str
) -> dict[str, float]:
    """Cycles that a core of a slice takes for an image, by the names of a generator's kernels.

    Empty where it has none on this mesh. Raises ValueError where the compiler does not tell.
    """
    if generator_options(compute, architecture, mesh)["attention"] != "pallas":
        return {}
    heads = architecture.num_heads // mesh.shape["tensor"]
    sizes = architecture.grid, heads, architecture.head_dim, int(architecture.use_rope)
    command = [sys.executable, "-m", __name__, topology, *map(str, sizes)]
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # this process may have it, too
            "LIBTPU_INIT_ARGS": f"{os.environ.get('LIBTPU_INIT_ARGS', '')} "
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=final_bundles",
        }
        done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
        found = {name: _bundles(folder, name) for name in (FORWARD, BACKWARD)}
    if done.returncode or not all(found.values()):
        reason = (done.stderr.strip() or "no schedule was written").splitlines()[-1]
        raise ValueError(
            f"the cycles of attention's kernel on {topology} cannot be told: {reason}; set "
            "config.compute.attention to 'xla', whose cycles are known"
        )
    return {name: float(max(bundles)) for name, bundles in found.items()}


def _bundles(folder: str, name: str) -> list[int]:
    files = pathlib.Path(folder).glob(f"*{name}*schedule-analysis_final_bundles.txt")
    matches = (_BUNDLES.search(file.read_text()) for file in files)
    return [int(match[1]) for match in matches if match]


def main() -> None:
    """Compiles attention and its backward pass for one device of a slice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("topology")
    for name in ("grid", "num_heads", "head_dim", "use_rope"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    mesh = make_mesh(devices=open_slice(options.topology).devices[:1])
    width = options.num_heads * options.head_dim
    shapes = [(_IMAGES, options.grid**2, width)] * 3 + [(3, width)]
    on_device = jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=on_device) for shape in shapes]

    def both(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
        grid = options.grid if options.use_rope else None
        out, pull_back = jax.vjp(
            lambda *inputs: pallas_attention(*inputs, options.head_dim, grid, unsharded),
            *(q, k, v, bias),
        )
        return pull_back(out)

    jax.jit(both, compiler_options=compiler_options(mesh)).lower(*arrays).compile()


if __name__ == "__main__":
    main()
