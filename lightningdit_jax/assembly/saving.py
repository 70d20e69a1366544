"""A module -> a checkpoint directory that describes itself: the inverse of loading."""

import dataclasses
import json
from typing import Any

import jax
from etils import epath
from flax import nnx

from lightningdit_jax.assembly.registry import MODELS, Role, model_of
from lightningdit_jax.checkpoint import FORMAT_VERSION, save_checkpoint
from lightningdit_jax.flow.predictions import Flow


def save(path: str, model: Any, *, step: int = 0) -> None:
    """Writes a generator or a tokenizer as a checkpoint, which `load` and every command take.

    path: a directory that is not there yet, local or gs://; it appears under its name when it is
    complete. step: how long the weights were trained, for people. With the weights it keeps the
    architecture, how latents are scaled (model.latent_scaling), and of a generator what it was
    trained to do (model.flow, None is the release's). For one process, which holds all weights.
    Raises ValueError for a model of another kind, and for a path that is there already.
    """
    kind = _kind(model)
    if epath.Path(path).exists():
        raise ValueError(f"{path} is there already; name another folder, or delete it first")
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "architecture": dataclasses.asdict(model.config),
        "step": step,
    }
    if model_of(kind).role is Role.GENERATOR:
        meta["flow"] = dataclasses.asdict(model.flow or Flow())
    if model.latent_scaling is not None:
        meta["latents"] = model.latent_scaling.to_meta()
    params = jax.device_get(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    save_checkpoint(str(path), {"params": params}, {"meta": json.loads(json.dumps(meta))})


def _kind(model: Any) -> str:
    """That of the registry whose module this is."""
    savable = {
        entry.module: kind
        for kind, entry in MODELS.items()
        if entry.role in (Role.GENERATOR, Role.TOKENIZER)
    }
    if type(model) not in savable:
        raise ValueError(
            f"model is a {type(model).__name__}; expected a generator or a tokenizer: "
            f"{', '.join(module.__name__ for module in savable)}"
        )
    return savable[type(model)]
