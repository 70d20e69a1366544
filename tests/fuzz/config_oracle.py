"""What configs/base.py promises of accepted values, written down apart from the checks."""

import json
import math
import tempfile

from lightningdit_jax.assembly.workdir import read_config, write_config
from lightningdit_jax.config import Config
from lightningdit_jax.configs import base

BELOW_ZERO = {"mesh.data", "mesh.fsdp", "mesh.tensor", "flow.uniform_from_step"}
FREE = {"flow.logit_mean", "vae_loss.logvar", "sample.cfg_scale", "sample.cfg_interval_start"}
FREE |= {"sample.cfg_interval_end", "sample.extrapolation", "sample.time_warp", "sweep.cfg_scale"}
FREE |= {"sweep.cfg_interval_start", "sample.ig_scale", "sample.ig_interval_start"}
FREE |= {"sample.ig_interval_end", "sweep.ig_scale", "sweep.ig_interval_end"}
FREE |= {"sample.apg_eta", "sample.apg_momentum", "sweep.apg_eta"}
OR_WORDS = {"flow.timestep_shift": ("dimension",), "sample.timestep_shift": ("dimension",)}
SHARES = {"model.class_dropout_prob", "optimizer.end_factor", "train.ema_decay", "optimizer.beta1"}
WORDS = {
    "kind": ("lightningdit", "vavae"),
    "compute.dtype": ("float32", "bfloat16"),
    "compute.on_oom": ("retry", "stop"),
    "compute.attention": ("auto", "xla", "cudnn", "pallas"),
    "compute.products": ("dtype", "float8"),
    "compute.compile_effort": ("full", "quick"),
    "data.augment": ("random_crop", "center_crop"),
    "data.stats": ("", "checkpoint", "data"),
    "data.corrupt": ("stop", "skip"),
    "flow.path": ("linear", "gvp", "vp"),
    "flow.prediction": ("velocity", "noise", "score", "data"),
    "flow.loss_weight": ("none", "velocity", "noise", "data", "likelihood"),
    "flow.timesteps": ("logit_normal", "uniform"),
    "vae_loss.reduction": ("sum", "mean"),
    "vae_loss.alignment_loss": ("vf", "pool_align", "cka", "soft_kl"),
    "discriminator.norm": ("batchnorm", "actnorm"),
    "train.init_weights": ("ema", "params"),
    "train.nonfinite": ("stop", "skip", "rollback"),
    "sample.output": ("npz", "png", "both"),
    "extract.dtype": ("float32", "bfloat16", "float16"),
}
AT_LEAST_ONE = {
    *("train.num_steps", "train.batch_size", "train.log_every_steps", "sample.num_samples"),
    *("train.checkpoint_every_steps", "train.keep_checkpoints", "extract.batch_size"),
    *("extract.shard_size", "evaluate.batch_size", "model.input_size", "model.in_channels"),
    *("model.num_classes", "tokenizer.ch", "data.num_threads", "data.prefetch_batches"),
}


def leaves(values: dict, prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def unlike_documented(config: Config | None) -> str:
    """What an accepted config holds that configs/base.py does not allow; "" for nothing."""
    if config is None:
        return "no config"
    defaults = dict(leaves(base.get_config().to_dict()))
    values = dict(leaves(config.to_dict()))
    if defaults.keys() != values.keys():
        return f"other keys: {defaults.keys() ^ values.keys()}"
    for key, value in values.items():
        if problem := _problem(key, value, defaults[key]):
            return f"{key} is {value!r:.80}: {problem}"
    with tempfile.TemporaryDirectory() as folder:
        write_config(config, folder)
        if read_config(folder) != config:
            return "another config than is read back"
    json.loads(json.dumps(config.to_dict()), parse_constant=_no_constant)
    return ""


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _problem(key: str, value, default) -> str:
    if key in WORDS:
        return "" if value in WORDS[key] else "no such word"
    if value in OR_WORDS.get(key, ()):
        return ""
    automatic = default == "auto" and key != "compute.remat" and key != "compute.attention"
    placeholder = default is None
    if (automatic and value == "auto") or (placeholder and value is None):
        return ""
    kind = int if automatic or placeholder else type(default)
    if type(value) is not kind:
        return f"a {type(value).__name__}, not a {kind.__name__}"
    for number in value if kind is tuple else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            return "not finite"
        if key not in FREE and number < (-1 if key in BELOW_ZERO else 0):
            return "below zero"
        if kind is int and abs(number) >= 2**63:
            return "more than 64 bits hold"
        if key in AT_LEAST_ONE and number < 1:
            return "below one"
        if key in SHARES and not 0 <= number <= 1:
            return "no share"
        if key == "seed" and number >= 2**32:
            return "no seed"
    return ""
