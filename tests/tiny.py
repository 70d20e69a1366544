"""Tiny models, data and configs that several tests share."""

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from lightningdit_jax import config as configs
from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.data.latents import (
    LatentShards,
    compute_stats,
    load_stats,
    save_stats,
    write_shard,
)
from lightningdit_jax.data.latents_record import RECORD
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.vit_config import ViTConfig

VIT = ViTConfig(
    patch_size=2,
    hidden_size=32,
    depth=2,
    num_heads=2,
    mlp_hidden=64,
    pos_embed_grid=4,
    layer_scale=True,
    num_registers=0,
    class_pos_embed=True,
)


def dit_config(**changes):
    """The published kind of generator, tiny."""
    fields = {
        "input_size": 4,
        "patch_size": 1,
        "in_channels": 8,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "num_classes": 10,
        "class_dropout_prob": 0.1,
        "learn_sigma": False,
        "use_qknorm": False,
        "use_swiglu": True,
        "use_rope": True,
        "use_rmsnorm": True,
        "wo_shift": False,
    }
    return LightningDiTConfig(**fields | changes)


def write_latents(folder, *, count=24, channels=8, size=4, classes=10, seed=0):
    """A folder of random latents in two shards, with statistics."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(1.0, 2.0, (2, count, size, size, channels)).astype(np.float32)
    labels = np.arange(count) % classes
    cut = count // 3
    for shard, rows in enumerate((slice(0, cut), slice(cut, None))):
        write_shard(folder, 0, shard, latents[0, rows], latents[1, rows], labels[rows])
    save_stats(folder, compute_stats(LatentShards(folder)))
    return folder


def write_features(latents, *, width=12, dtype="float32"):
    """Features that are linear in the latents of a folder, in it, and both with their records.

    Returns the matrix, [channels, width].
    """
    shards = LatentShards(latents)
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(shards.shape[-1], width)).astype(np.float32)
    images = {"images": {"source": "digits", "count": len(shards)}, "resolution": 16}
    folder = latents / "features"
    for shard, rows in enumerate(np.array_split(np.arange(len(shards)), 3)):
        each = [shards.read(rows, np.full(len(rows), flip)) @ matrix for flip in (False, True)]
        write_shard(folder, 0, shard, *each, shards.labels[rows], dtype)
    write_json(epath.Path(latents) / RECORD, {"tokenizer": "0", **images})
    made = {"kind": "vit", "fingerprint": "0123456789abcdef"}
    size = {"grid": shards.shape[0], "width": width}
    write_json(epath.Path(folder) / RECORD, {"foundation": made, "features": size, **images})
    return matrix


def write_network(path, module, architecture, kind):
    """A converted checkpoint of random weights."""
    network = module(architecture, dtype=jnp.float32, rngs=nnx.Rngs(0))
    meta = {
        "format_version": 1,
        "kind": kind,
        "architecture": dataclasses.asdict(architecture),
        "step": 0,
    }
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    save_checkpoint(str(path), {"params": params}, {"meta": json.loads(json.dumps(meta))})
    return str(path)


def publish(monkeypatch, kind, architecture):
    """Makes an architecture the one that is meant by a kind without a checkpoint."""
    entry = dataclasses.replace(MODELS[kind], published=architecture)
    monkeypatch.setitem(MODELS, kind, entry)


def load_scaling(folder, multiplier=1.0):
    """How a generator trained on that folder scales its latents."""
    return dataclasses.replace(load_stats(folder), multiplier=multiplier)


GENERATOR = {
    "model.depth": 2,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "train.num_steps": 6,
    "train.batch_size": 8,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 2,
}
TOKENIZER = {
    "tokenizer.resolution": 16,
    "tokenizer.ch_mult": (1, 1),
    "tokenizer.num_res_blocks": 0,
    "data.split": "test",
    "vae_loss.disc_weight": 0.0,
    "vae_loss.alignment": "none",
    "train.num_steps": 2,
    "train.batch_size": 8,
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 2,
    "extract.batch_size": 40,
    "extract.shard_size": 100,
    "evaluate.batch_size": 40,
    "evaluate.num_images": 50,
}


# The schedule and the policy that read the most keys.
READS_MOST = {
    "optimizer__schedule": "trapezoid",
    "optimizer__warmup_steps": 0,
    "optimizer__decay_steps": 1,
    "train__spikes": "skip",
}

# What a plan for CPUs says of a model as small as these; a test of plans leaves it "auto".
PLANNED = {
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
    "mesh.dcn_data": 1,
    "compute.remat": "none",
    "train.accumulate_steps": 1,
}


def config(name, **changes):
    """configs/NAME.py, planned, with changes, keys as section__name."""
    c = importlib.import_module(f"lightningdit_jax.configs.{name}").get_config()
    tiny = {"digits_dit": GENERATOR, "digits_vavae": TOKENIZER}.get(name, {})
    for key, value in {
        **PLANNED,
        **tiny,
        **{k.replace("__", "."): v for k, v in changes.items()},
    }.items():
        section, _, leaf = key.rpartition(".")
        (c[section] if section else c)[leaf] = value
    return configs.from_dict(c)


def flags(**changes):
    """The tiny generator as command-line overrides."""
    values = {**GENERATOR, **{k.replace("__", "."): v for k, v in changes.items()}}
    return [f"--config.{key}={value}" for key, value in values.items()]


def replaced(config, section, **changes):
    """A config with another section."""
    return config.changed(**{section: changes})
