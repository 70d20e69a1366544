"""Checkpoint files in the layouts that are met, and some that must be refused.

Everything comes from the tensors of three stored files, through the release's modules: as train.py
saves a generator, as Lightning saves VA-VAE, and one of many dtypes.
"""

import functools
import hashlib
import os
import pathlib
import pickle
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from tests.make_golden.registry import Case, Made, Tensors, case
from tests.make_golden.tokenizer import autoencoder

# Of the autoencoders in vavae_*.pt and marvae_fp16.pt.
TOKENIZER = {
    "embed_dim": 4,
    "ch": 32,
    "ch_mult": (1,),
    "num_res_blocks": 0,
    "attn_resolutions": (8,),
    "resolution": 8,
}
CANARY = "GOLDEN_FIXTURE_CANARY"


class Call:
    """Pickles as a call, which whoever unpickles it without care makes."""

    def __init__(self, function: Callable, *args: Any):
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


def saved(name: str, content: Any, **how: Any) -> bytes:
    """The bytes of torch.save, which hold the file's name."""
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / name
        torch.save(content, path, **how)
        return path.read_bytes()


def renamed(state: Tensors, prefix: str = "", without: str = "") -> Tensors:
    """A copy under prefixed names, without one of them, and without a module's metadata."""
    return OrderedDict((prefix + name, v) for name, v in state.items() if name != without)


def unwrapped(state: Tensors) -> Tensors:
    """A copy under the names that a module has without DDP."""
    return OrderedDict((name.removeprefix("module."), v) for name, v in state.items())


@case("checkpoints")
def checkpoints(case: Case) -> Made:
    folder = case.config["dir"]
    made = generators(case) | tokenizers(case) | refused() | dtypes(case)
    release = made["release_full.pt"]
    made |= {"truncated.pt": release[: len(release) // 10], "empty.pt": b""}
    files = {f"{folder}/{name}": content for name, content in made.items()}
    return files | {f"{folder}/expected.json": expected(case)}


def generators(case: Case) -> Made:
    """What train.py saves, in its own layout and in others."""
    from models.lightningdit import LightningDiT

    stored = case.read(f"{case.config['dir']}/release_full.pt")
    model, ema = (LightningDiT(**case.config["lightningdit_model"]) for _ in range(2))
    model.load_state_dict(unwrapped(stored["model"]))
    ema.load_state_dict(stored["ema"])
    settings = stored["config"]["optimizer"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], weight_decay=0, betas=(0.9, settings["beta2"])
    )
    optimizer.load_state_dict(stored["opt"])
    wrapper = torch.nn.Module()  # train.py's DDP, which needs processes
    wrapper.module = model
    weights, average = wrapper.state_dict(), ema.state_dict()
    full = {
        "model": weights,
        "ema": average,
        "opt": interned(optimizer.state_dict()),
        "config": interned(stored["config"]),
    }
    vectors = renamed({name: v for name, v in average.items() if v.ndim == 1})
    vectors["x_embedder.proj.bias"] = torch.zeros(3)
    vectors["unexpected.weight"] = torch.ones(2)
    layouts = {
        "release_full.pt": full,
        "no_prefix.pt": {"model": unwrapped(weights), "ema": average},
        "orig_mod_prefix.pt": {"ema": renamed(average, "_orig_mod.")},
        "module_orig_mod_prefix.pt": {"ema": renamed(average, "module._orig_mod.")},
        "bare_state_dict.pt": renamed(average),
        "missing_key.pt": {"ema": renamed(average, without="x_embedder.proj.weight")},
        "wrong_shape_and_extra.pt": {"ema": vectors},
    }
    files = {name: saved(name, content) for name, content in layouts.items()}
    old = functools.partial(saved, _use_new_zipfile_serialization=False)
    return files | {"legacy_format.pt": old("legacy_format.pt", {"ema": average})}


def interned(value: Any) -> Any:
    """A copy whose names are one object each, as in source; pickle stores such names once."""
    if isinstance(value, list):
        return [interned(part) for part in value]
    if not isinstance(value, dict):
        return value
    named = {k: interned(v) for k, v in value.items()}
    return {sys.intern(k) if isinstance(k, str) else k: v for k, v in named.items()}


def tokenizers(case: Case) -> Made:
    """Autoencoders with Lightning's wrapper and without, and MAR's."""
    folder = case.config["dir"]
    lightning = case.read(f"{folder}/vavae_state_dict.pt")
    marvae = case.read(f"{folder}/marvae_fp16.pt")["model"]
    others = {
        name: v
        for name, v in lightning["state_dict"].items()
        if name.startswith(("loss.", "foundation_model.", "linear_proj."))
    }
    state = {name: v for name, v in lightning["state_dict"].items() if name not in others}
    full = through(autoencoder(TOKENIZER), state)
    kept = {k: others[k] for k in list(others)[:3]}
    contents = {
        "vavae_state_dict.pt": {**lightning, "state_dict": renamed(full | others)},
        "vavae_bare_fp16.pt": renamed({k: v.half() for k, v in full.items()} | kept),
        "marvae_fp16.pt": {"model": through(autoencoder(TOKENIZER, model_type="marvae"), marvae)},
    }
    return {name: saved(name, content) for name, content in contents.items()}


def through(module: torch.nn.Module, state: Tensors) -> Tensors:
    """The state as the module holds it, in its dtype, without the module's metadata."""
    module.to(next(iter(state.values())).dtype).load_state_dict(state)
    return renamed(module.state_dict())


def refused() -> dict[str, bytes]:
    """Harmless calls that no safe loader makes."""
    tensors = {"x": torch.ones(2)}
    getenv = Call(os.getenv, CANARY, "unsafe-load")
    source = f"__import__('os').environ.__setitem__('{CANARY}', 'executed')"
    return {
        "unsafe_getenv.pt": saved("unsafe_getenv.pt", {"ema": tensors, "config": getenv}),
        "unsafe_eval.pt": saved("unsafe_eval.pt", {"ema": tensors, "opt": [Call(eval, source)]}),
        "unsafe_plain_pickle.pt": pickle.dumps({"ema": getenv}, protocol=2),
    }


def dtypes(case: Case) -> dict[str, bytes]:
    """Every dtype, and views of one storage."""
    name = "dtypes_and_views.pt"
    stored = case.read(f"{case.config['dir']}/{name}")
    state = stored["state_dict"]
    table = state["shared"].clone()
    views = {
        "view_t": table.t(),
        "view_slice": table[2:5, 1:4],
        "view_strided": table[::2],
        "shared": table,
    }
    return {name: saved(name, {**stored, "state_dict": renamed(state | views)})}


def expected(case: Case) -> dict[str, Any]:
    """The stored listing, with shapes, dtypes and hashes of the tensors of the files."""
    folder = case.config["dir"]
    listing = case.read(f"{folder}/expected.json")
    for name, entry in listing.items():
        for part in ("ema", "state_dict"):
            if part in entry:
                state = case.read(f"{folder}/{name}")[part]
                entry[part] = {key: described(tensor) for key, tensor in state.items()}
    return listing


def described(tensor: torch.Tensor) -> dict[str, Any]:
    """Shape, dtype and the SHA-256 of its bytes in the order of its indices."""
    data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
