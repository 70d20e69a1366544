"""Full-size models against the PyTorch release, both ways, on random weights.

    python -m benchmarks.release_parity --release=CHECKOUT --scratch=FOLDER

CHECKOUT is a clone of github.com/hustvl/LightningDiT, whose imports torch, timm and fairscale are
needed too. Per model: the release makes weights and an output, its file is converted and run in
float32 and bfloat16, and the checkpoint is written back as a `.pt` file that the release loads with
strict=True. Needs about 10 GiB of memory, 10 GB of disk and a few minutes on two cores.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.release_model import release_generator


def release_models(release: str) -> Iterator[tuple[str, Any, Callable, dict[str, np.ndarray]]]:
    """(name, module, function of the inputs, inputs) of the release's models, NCHW."""
    import torch

    sys.path.insert(0, release)
    from tokenizer.autoencoder import AutoencoderKL

    rng = np.random.default_rng(0)
    dit = release_generator("XL/1", input_size=16, in_channels=32)
    x = rng.standard_normal((2, 32, 16, 16), np.float32)
    inputs = {"x": x, "t": np.array([0.3, 0.8], np.float32), "y": np.array([207, 1000])}
    yield "LightningDiT-XL/1 velocity", dit, lambda m, x, t, y: m(x, t, y), inputs

    vae = AutoencoderKL(embed_dim=32, ch_mult=(1, 1, 2, 2, 4))
    images = {"x": rng.uniform(-1, 1, (1, 3, 256, 256)).astype(np.float32)}
    yield "VA-VAE f16d32 moments", vae, lambda m, x: m.encode(x).parameters, images
    latents = {"x": rng.standard_normal((1, 32, 16, 16), np.float32)}
    yield "VA-VAE f16d32 decode", vae, lambda m, x: m.decode(x), latents
    torch.manual_seed(0)


def randomize(module: Any) -> None:
    """Fills every parameter, also those that start at zero, so that all of them matter."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "pos_embed":
                continue
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


def ours(path: str, name: str, inputs: dict[str, np.ndarray], dtype: Any) -> np.ndarray:
    """The converted model's output, NCHW."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import lightningdit_jax as ldj

    graphdef, params = nnx.split(ldj.load(path, dtype=dtype))

    @jax.jit
    def run(params: Any, x: jax.Array, *condition: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)
        if "velocity" in name:
            return model(x, *condition)
        if "decode" in name:
            return model.decode(x)
        posterior = model.encode(x)
        return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)

    x = np.moveaxis(inputs["x"], 1, -1)
    with jax.default_matmul_precision("highest"):
        out = run(params, x, *list(inputs.values())[1:])
    return np.moveaxis(np.asarray(out, np.float32), -1, 1)


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--release", required=True, help="checkout of hustvl/LightningDiT")
    parser.add_argument("--scratch", required=True, help="folder for weights")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import jax.numpy as jnp
    import torch

    from lightningdit_jax.convert.files import convert_files, export_file

    scratch = pathlib.Path(options.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    results, written = {}, None
    print("| model | float32 | bfloat16 matmuls | written back |")
    print("|---|---|---|---|")
    for name, module, function, inputs in release_models(options.release):
        if module is not written:
            randomize(module)
            module.eval()
            torch.save(module.state_dict(), scratch / "release.pt")
            convert_files(
                [str(scratch / "release.pt")], str(scratch / "converted"), overwrite=True, say=str
            )
            export_file(str(scratch / "converted"), str(scratch / "back.pt"), say=str)
            state, back = module.state_dict(), torch.load(scratch / "back.pt", mmap=True)
            identical = all(torch.equal(state[key], back[key]) for key in state)
            module.load_state_dict(back, strict=True)
            written = module
        with torch.no_grad():
            want = function(module, *(torch.from_numpy(v) for v in inputs.values())).numpy()
        errors = {}
        for dtype in (jnp.float32, jnp.bfloat16):
            got = ours(str(scratch / "converted"), name, inputs, dtype)
            errors[jnp.dtype(dtype).name] = float(np.abs(got - want).max() / np.abs(want).max())
        results[name] = {**errors, "strict_and_identical": identical}
        print(
            f"| {name} | {errors['float32']:.1e} | {errors['bfloat16']:.1e} | "
            f"{'strict, bit-identical' if identical else 'differs'} |",
            flush=True,
        )
    (scratch / "release_parity.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
