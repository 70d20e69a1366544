"""The generator, tokenizer and latent scaling that a config samples with, checked to fit."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from lightningdit_jax.checkpoint import architecture_fields
from lightningdit_jax.config import Config
from lightningdit_jax.inference.fingerprint import weights_fingerprint
from lightningdit_jax.inference.load import Loaded, load_functional
from lightningdit_jax.inference.sampler import Sampler, Structure
from lightningdit_jax.inference.sampling import Flow
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.registry import architecture
from lightningdit_jax.parallel.mesh import make_mesh


def open_sampler(config: Config, workdir: str) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of config.sample on all devices, and a description of its weights.

    The description names every checkpoint with its step and the fingerprint of its weights, and
    the latent scaling. Raises ValueError or FileNotFoundError for checkpoints that are missing, of
    another kind, or do not fit each other.
    """
    options = config.sample
    if not options.tokenizer:
        raise ValueError("config.sample.tokenizer is empty; set it to the tokenizer's checkpoint")
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    path = options.checkpoint or workdir
    dtype = jnp.dtype(config.compute.dtype)
    dit = load_functional(path, mesh, dtype=dtype, use_ema=options.use_ema, expect="lightningdit")
    generator = architecture("lightningdit", architecture_fields(dit.meta))
    scaling, flow = dit.scaling(), flow_of(dit.meta)
    if scaling is None:
        raise ValueError(
            f"{path} does not say how its latents were normalised; "
            "convert it again with --latent-stats FILE (or none, for a generator of raw latents)"
        )
    loaded = {"dit": dit, **load_companions(config, mesh, generator, flow)}
    graphdefs = {name: part.graphdef for name, part in loaded.items()}
    structure = Structure(**graphdefs, config=generator, scaling=scaling, flow=flow)
    paths = {"dit": path, "vae": options.tokenizer, "weak": options.weak_checkpoint}
    description = {
        "weights": {
            name: {
                "path": paths[name],
                "step": part.meta["step"],
                "fingerprint": weights_fingerprint(part.params),
            }
            for name, part in loaded.items()
        },
        "latents": dit.meta["latents"],
        **dataclasses.asdict(flow),
    }
    return Sampler(structure, {n: part.params for n, part in loaded.items()}, mesh), description


def load_companions(
    config: Config, mesh: Mesh, generator: LightningDiTConfig, flow: Flow
) -> dict[str, Loaded]:
    """What a generator samples with: "vae", and for autoguidance "weak".

    Raises ValueError or FileNotFoundError for checkpoints that are missing, of another kind, or do
    not fit the generator and its flow.
    """
    options, dtype = config.sample, jnp.dtype(config.compute.dtype)
    vae = load_functional(options.tokenizer, mesh, dtype=dtype, expect="vavae")
    width = vae.meta["architecture"]["embed_dim"]
    if generator.in_channels != width:
        raise ValueError(
            f"the generator makes latents of {generator.in_channels} channels, the tokenizer "
            f"{options.tokenizer} decodes {width}"
        )
    if not (path := options.weak_checkpoint):
        return {"vae": vae}
    weak = load_functional(path, mesh, dtype=dtype, use_ema=options.use_ema, expect="lightningdit")
    theirs = weak.meta["architecture"] | dataclasses.asdict(flow_of(weak.meta))
    ours = dataclasses.asdict(generator) | dataclasses.asdict(flow)
    for key in ("input_size", "in_channels", "num_classes", "path", "prediction"):
        if theirs[key] != ours[key]:
            raise ValueError(
                f"the weak generator {path} has {key} {theirs[key]}, the generator {ours[key]}; "
                "autoguidance needs two models of the same latents, classes and flow"
            )
    return {"vae": vae, "weak": weak}


def flow_of(meta: dict) -> Flow:
    """The flow of a generator's checkpoint. Converted ones are the release's: its default."""
    return Flow(**meta.get("flow", {}))
