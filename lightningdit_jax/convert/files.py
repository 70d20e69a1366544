"""Whole files: PyTorch weights to a checkpoint directory, and back."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from lightningdit_jax.checkpoint import (
    FORMAT_VERSION,
    architecture_fields,
    find_checkpoint,
    item_names,
    read_arrays,
    read_meta,
    save_checkpoint,
)
from lightningdit_jax.convert.convert import abstract_params, params_from_torch, params_to_torch
from lightningdit_jax.convert.source import Source, file_sha256, read_source
from lightningdit_jax.convert.torch_io import save_torch
from lightningdit_jax.data.latents import LatentStats, save_stats
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.vae import VAVAEConfig

# Kinds of files, and a tensor that only such a file has.
_SIGNS = {
    "lightningdit": "x_embedder.proj.weight",
    "vavae": "encoder.conv_in.weight",
    "latent_stats": "mean",
}
KINDS = ("auto", *_SIGNS)
_CONFIGS = {"lightningdit": LightningDiTConfig, "vavae": VAVAEConfig}


def convert_file(
    src: str,
    dst: str,
    *,
    kind: str,
    weights: str,
    overwrite: bool,
    say: Callable[[str], None] = print,
) -> None:
    """Converts a file of PyTorch weights into a checkpoint that `load` reads.

    kind: one of KINDS. weights: "ema" or "model". "latent_stats" writes latents_stats.safetensors
    into the folder dst. Raises ValueError listing every tensor that does not fit, and
    FileExistsError if dst is there and overwrite is off; nothing is written then.
    """
    target = epath.Path(dst)
    source = read_source(src, weights)
    kind = _detect(source) if kind == "auto" else kind
    if target.exists() and kind != "latent_stats" and not overwrite:
        raise FileExistsError(f"{target} is there already; delete it or pass --overwrite")
    say(f"{source.name}: {kind}, {len(source.tensors)} tensors from {source.wrapper or 'the file'}")
    if kind == "latent_stats":
        mean, std = (np.asarray(source.tensors[k], np.float32).ravel() for k in ("mean", "std"))
        target.mkdir(parents=True, exist_ok=True)
        save_stats(target, LatentStats(mean, std))
        say(f"statistics of {mean.size} channels in {target}")
        return
    config, params = params_from_torch(kind, source.tensors)
    for name, value in dataclasses.asdict(config).items():
        say(f"  {name:26s} {value}")
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "architecture": dataclasses.asdict(config),
        "step": 0,
        "source": {
            "file": source.name,
            "sha256": file_sha256(src),
            "weights": source.wrapper,
            "tensors": len(source.tensors),
        },
    }
    if target.exists():
        target.rmtree()
    save_checkpoint(dst, {"params": jax.tree.map(np.asarray, params)}, {"meta": meta})
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count:,} parameters in {target}")


def export_file(src: str, dst: str, *, say: Callable[[str], None] = print) -> None:
    """Writes a checkpoint as the state dict that the release loads, `.pt` or `.safetensors`.

    Averaged weights where the checkpoint has them. Raises ValueError for another suffix.
    """
    target = epath.Path(dst)
    if target.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{target} ends in '{target.suffix}'; expected .pt or .safetensors")
    checkpoint = find_checkpoint(src)
    meta = read_meta(checkpoint)
    config: Any = _CONFIGS[meta["kind"]](**architecture_fields(meta))
    item = "ema" if "ema" in item_names(checkpoint) else "params"
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        abstract_params(meta["kind"], config),
    )
    params = jax.tree.map(np.asarray, read_arrays(checkpoint, item, abstract))
    tensors = params_to_torch(meta["kind"], config, params)
    temporary = target.with_name(target.name + ".tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".pt":
        save_torch(temporary, tensors)
    else:
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        temporary.write_bytes(safetensors.numpy.save(contiguous))
    temporary.replace(target)
    say(f"{len(tensors)} tensors of {meta['kind']} ({item}) in {target}")


def _detect(source: Source) -> str:
    for kind, sign in _SIGNS.items():
        if sign in source.tensors:
            return kind
    some = ", ".join(list(source.tensors)[:5])
    raise ValueError(
        f"{source.name} is of no kind that can be converted yet ({', '.join(_SIGNS)}); "
        f"it holds {some}, ..."
    )
