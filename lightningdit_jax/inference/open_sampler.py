"""The generator, tokenizer and latent scaling that a config samples with, checked to fit."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from lightningdit_jax.checkpoint import architecture_fields
from lightningdit_jax.config import Config
from lightningdit_jax.inference.fingerprint import weights_fingerprint
from lightningdit_jax.inference.load import Loaded, load_functional
from lightningdit_jax.inference.sampler import Sampler, Structure
from lightningdit_jax.inference.sampling import Flow
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
    dtype = jnp.dtype(config.compute.dtype)

    def load(path: str, kind: str, use_ema: bool = True) -> Loaded:
        return load_functional(path, mesh, dtype=dtype, use_ema=use_ema, expect=kind)

    dit_path = options.checkpoint or workdir
    dit = load(dit_path, "lightningdit", options.use_ema)
    vae = load(options.tokenizer, "vavae")
    fields = dit.meta["architecture"]
    if fields["in_channels"] != vae.meta["architecture"]["embed_dim"]:
        raise ValueError(
            f"the generator makes latents of {fields['in_channels']} channels, the tokenizer "
            f"{options.tokenizer} decodes {vae.meta['architecture']['embed_dim']}"
        )
    scaling = dit.scaling()
    if scaling is None:
        raise ValueError(
            f"{dit_path} does not say how its latents were normalised; "
            "convert it again with --latent-stats FILE (or none, for a generator of raw latents)"
        )
    loaded = {"dit": dit, "vae": vae}
    paths = {"dit": dit_path, "vae": options.tokenizer}
    if options.weak_checkpoint:
        loaded["weak"] = load(options.weak_checkpoint, "lightningdit", options.use_ema)
        paths["weak"] = options.weak_checkpoint
        _check_weak(dit, loaded["weak"], options.weak_checkpoint)
    structure = Structure(
        **{name: part.graphdef for name, part in loaded.items()},
        config=architecture("lightningdit", architecture_fields(dit.meta)),
        scaling=scaling,
        flow=flow_of(dit.meta),
    )
    weights = {name: part.params for name, part in loaded.items()}
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
        **dataclasses.asdict(structure.flow),
    }
    return Sampler(structure, weights, mesh), description


def flow_of(meta: dict) -> Flow:
    """The flow of a generator's checkpoint. Converted ones are the release's: its default."""
    return Flow(**meta.get("flow", {}))


def _check_weak(strong: Loaded, weak: Loaded, path: str) -> None:
    keys = ("input_size", "in_channels", "num_classes")
    (ours, theirs) = (
        {key: part.meta["architecture"][key] for key in keys}
        | dataclasses.asdict(flow_of(part.meta))
        for part in (strong, weak)
    )
    for key, value in ours.items():
        if theirs[key] != value:
            raise ValueError(
                f"the weak generator {path} has {key} {theirs[key]}, the generator {value}; "
                "autoguidance needs two models of the same latents, classes and flow"
            )
