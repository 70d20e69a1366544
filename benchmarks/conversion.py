"""Time and memory of converting a full-size generator, on random weights.

    python -m benchmarks.conversion --variant=XL/1 --scratch=FOLDER

Writes the release's state dict as .safetensors, then runs convert_torch_weights.py on it as a user
would and reports its wall time and peak resident memory beside the size of the weights.
"""

import argparse
import dataclasses
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import save_file

from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import from_dict
from lightningdit_jax.configs import base
from lightningdit_jax.convert.convert import torch_shapes
from lightningdit_jax.convert.lightningdit import keymap

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", default="XL/1")
    parser.add_argument("--scratch", type=pathlib.Path, required=True, help="folder for weights")
    options = parser.parse_args()
    defaults = from_dict(base.get_config())
    model = dataclasses.replace(defaults.model, variant=options.variant)
    config = generator_config(dataclasses.replace(defaults, model=model))
    rng = np.random.default_rng(0)
    tensors = {
        key: rng.standard_normal(shape, np.float32)
        for key, shape in torch_shapes("lightningdit", config).items()
    }
    options.scratch.mkdir(parents=True, exist_ok=True)
    source = options.scratch / "release.safetensors"
    save_file(tensors | dict(keymap(config).buffers), source)
    size = sum(tensor.nbytes for tensor in tensors.values()) / 2**30
    del tensors

    command = [sys.executable, "convert_torch_weights.py", "--src", str(source), "--overwrite"]
    began = time.perf_counter()
    subprocess.run([*command, "--dst", str(options.scratch / "converted")], cwd=ROOT, check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    print(
        f"{options.variant}: {seconds:.1f} s, peak {peak:.2f} GiB for {size:.2f} GiB of weights "
        f"({peak / size:.2f} copies)"
    )


if __name__ == "__main__":
    main()
