"""How far the modules are from the PyTorch release, on its recorded outputs.

    python -m benchmarks.parity

Prints, per golden case, the largest error over the largest magnitude of the output, computing in
float32 and, for comparison, with bfloat16 matmuls.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.vae import VAVAE
from tests import golden


def relative_error(got: jax.Array, want: np.ndarray) -> float:
    """Largest error over the largest magnitude."""
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def generator(name: str, dtype: jnp.dtype) -> dict[str, float]:
    """Errors of a forward pass of LightningDiT."""
    entry, data = golden.index()[name], golden.load(name)
    settings = entry["config"]
    config, params = params_from_torch(
        "lightningdit",
        golden.load_weights(name),
        hints=Hints(settings["num_heads"], settings.get("class_dropout_prob", 0.1) > 0),
    )
    model = LightningDiT(config, dtype=dtype, rngs=nnx.Rngs(0))
    model = nnx.merge(nnx.graphdef(model), params)
    velocity = model(golden.to_nhwc(data["in.x"]), data["in.t"], data["in.y"])
    return {"velocity": relative_error(velocity, golden.to_nhwc(data["out.y"]))}


def tokenizer(name: str, dtype: jnp.dtype) -> dict[str, float]:
    """Errors of encoder and decoder."""
    data = golden.load(name)
    config, params = params_from_torch("vavae", golden.load_weights(name))
    vae = nnx.merge(nnx.graphdef(VAVAE(config, dtype=dtype, rngs=nnx.Rngs(0))), params)
    posterior = vae.encode(golden.to_nhwc(data["in.x"]))
    decoded = vae.decode(golden.to_nhwc(data["out.sample"]))
    return {
        "mean": relative_error(posterior.mean, golden.to_nhwc(data["out.mean"])),
        "logvar": relative_error(posterior.logvar, golden.to_nhwc(data["out.logvar"])),
        "decode": relative_error(decoded, golden.to_nhwc(data["out.decode"])),
    }


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_default_matmul_precision", "highest")
    print(f"{'case':32s} {'output':10s} {'float32':>10s} {'bfloat16':>10s}")
    forward = [n for n in golden.index() if n.startswith("lightningdit_") and "_cfg_" not in n]
    for name in [*forward, "vae"]:
        measure = tokenizer if name == "vae" else generator
        exact, coarse = (measure(name, dtype) for dtype in (jnp.float32, jnp.bfloat16))
        for output in exact:
            print(f"{name:32s} {output:10s} {exact[output]:10.1e} {coarse[output]:10.1e}")


if __name__ == "__main__":
    main()
