"""vavae/configs/*.yaml and tokenizer/configs/*.yaml of the release: a tokenizer."""

from typing import Any

from lightningdit_jax.release_config.keys import ABSENT, Keys

_MODEL, _LOSS = "model.params", "model.params.lossconfig.params"
_DD, _TRAINER = "model.params.ddconfig", "lightning.trainer"
TARGET = "ldm.models.autoencoder.AutoencoderKL"
_LOSS_TARGET = "ldm.modules.losses.LPIPSWithDiscriminator"
_IMAGES = 1_281_167  # of ImageNet's training set
_TRAINING_IMAGES = "ILSVRC2012_train/data"
# What vavae/configs/f16d32_vfdinov2_long.yaml leaves empty: three runs, whose values stand in its
# comments. (key, config key, values.)
_LONG = (
    (f"{_LOSS}.disc_start", "stages.disc_start", (5001, 1, 1)),
    (f"{_LOSS}.vf_weight", "stages.vf_weight", (0.5, 0.1, 0.1)),
    (f"{_LOSS}.distmat_margin", "stages.distmat_margin", (0.0, 0.0, 0.25)),
    (f"{_LOSS}.cos_margin", "stages.cos_margin", (0.0, 0.0, 0.5)),
)
_LONG_EPOCHS = (100, 15, 15)
_PRECISIONS = {"32": "float32", "32-true": "float32", "bf16": "bfloat16", "bf16-mixed": "bfloat16"}


def read_tokenizer(keys: Keys) -> None:
    """Asks for every key that the release's tokenizer and its training read."""
    keys.set({"kind": "vavae", "data.source": "folder", "data.flip": False})
    keys.set({"optimizer.name": "adamw", "optimizer.beta1": 0.5, "optimizer.beta2": 0.9})
    keys.set({"optimizer.weight_decay": 0.0, "train.ema_decay": 0.0})
    _model(keys)
    _architecture(keys)
    _loss(keys)
    batch = _data(keys)
    _stages(keys, batch)


def _model(keys: Keys) -> None:
    convert = "python convert_torch_weights.py --src FILE --dst CHECKPOINT"
    keys.implied("ckpt_path", f"converted first, {convert}")
    start = "converted first; a run starts from it by --config.train.init=CHECKPOINT"
    keys.implied("weight_init", f"{start} (the release reads init_weight and passes this over)")
    keys.implied("init_weight", start)
    rate = keys.number("model.base_learning_rate", float, 1e-4)
    why = "never scaled by the batch"
    keys.mapped("model.base_learning_rate", {"optimizer.learning_rate": rate}, why)
    keys.implied("model.target", "kind = vavae")
    keys.implied(f"{_MODEL}.monitor", "the newest checkpoints stay, not the best of this")
    width = keys.number(f"{_MODEL}.embed_dim", int, 32)
    keys.mapped(f"{_MODEL}.embed_dim", {"tokenizer.embed_dim": width})
    network = keys.value(f"{_MODEL}.use_vf")
    if network in ("dinov2", "mae"):
        keys.mapped(f"{_MODEL}.use_vf", {"vae_loss.alignment": network})
    elif network in (None, ABSENT):
        keys.mapped(f"{_MODEL}.use_vf", {"vae_loss.alignment": "none"}, "no alignment")
    else:
        keys.refused(f"{_MODEL}.use_vf", "expected dinov2 or mae; others by vae_loss.alignment=vit")
    if network not in (None, ABSENT):
        _renamed(keys, f"{_MODEL}.reverse_proj", "vae_loss.reverse_proj", bool, False)
    else:
        keys.implied(f"{_MODEL}.reverse_proj", "there is no alignment")
    only = "the projection is trained here"
    keys.only(f"{_MODEL}.proj_fix", [False], only, only)
    keys.only(f"{_MODEL}.image_key", ["image"], "images", "expected image")


def _architecture(keys: Keys) -> None:
    for key, kind in {
        "z_channels": int,
        "resolution": int,
        "in_channels": int,
        "ch": int,
        "num_res_blocks": int,
    }.items():
        _renamed(keys, f"{_DD}.{key}", f"tokenizer.{key}", kind)
    _list(keys, f"{_DD}.ch_mult", ("tokenizer.ch_mult",))
    attention = ("tokenizer.encoder_attn_resolutions", "tokenizer.decoder_attn_resolutions")
    _list(keys, f"{_DD}.attn_resolutions", attention)
    keys.only(f"{_DD}.double_z", [True], "mean and deviation", "expected true: mean and deviation")
    channels = keys.value(f"{_DD}.in_channels")
    same = "tokenizer.in_channels are those of the images, in and out"
    keys.only(f"{_DD}.out_ch", [channels], "the channels that come in", same)
    keys.only(f"{_DD}.dropout", [0.0], "there is none here", "there is none here; set it to 0.0")


def _loss(keys: Keys) -> None:
    target = f"{_MODEL}.lossconfig.target"
    keys.only(target, [_LOSS_TARGET], "the loss of vae_loss", f"expected {_LOSS_TARGET}")
    _renamed(keys, f"{_LOSS}.kl_weight", "vae_loss.kl_weight", float, 1.0)
    _renamed(keys, f"{_LOSS}.pixelloss_weight", "vae_loss.pixel_weight", float, 1.0)
    _renamed(keys, f"{_LOSS}.perceptual_weight", "vae_loss.perceptual_weight", float, 1.0)
    _renamed(keys, f"{_LOSS}.logvar_init", "vae_loss.logvar", float, 0.0, "never trained")
    _renamed(keys, f"{_LOSS}.distmat_weight", "vae_loss.distmat_weight", float, 1.0)
    _renamed(keys, f"{_LOSS}.cos_weight", "vae_loss.cos_weight", float, 1.0)
    _renamed(keys, f"{_LOSS}.adaptive_vf", "vae_loss.adaptive_vf", bool, False)
    _renamed(keys, f"{_LOSS}.disc_num_layers", "discriminator.num_layers", int, 3)
    _renamed(keys, f"{_LOSS}.disc_weight", "vae_loss.disc_weight", float, 1.0)
    factor = "there is no factor beside disc_weight here; expected 1.0"
    keys.only(f"{_LOSS}.disc_factor", [1.0], "none beside disc_weight", factor)
    kind = keys.value(f"{_LOSS}.disc_loss")
    if kind in ("hinge", "vanilla", ABSENT):
        kind = "hinge" if kind is ABSENT else kind
        keys.mapped(f"{_LOSS}.disc_loss", {"vae_loss.disc_loss": kind})
    else:
        keys.refused(f"{_LOSS}.disc_loss", "expected hinge or vanilla")
    norm = "actnorm" if keys.number(f"{_LOSS}.use_actnorm", bool, False) else "batchnorm"
    keys.mapped(f"{_LOSS}.use_actnorm", {"discriminator.norm": norm})
    reduction = "mean" if keys.number(f"{_LOSS}.pp_style", bool, False) else "sum"
    keys.mapped(f"{_LOSS}.pp_style", {"vae_loss.reduction": reduction})
    keys.only(f"{_LOSS}.disc_in_channels", [3], "as the images", "expected 3, of images")
    keys.only(f"{_LOSS}.disc_conditional", [False], "the images alone", "expected false")
    keys.implied(f"{_LOSS}.vf_loss_type", "there is one such loss, and the release's takes no name")


def _data(keys: Keys) -> int:
    """The global batch."""
    keys.implied("data.target", "data.source = folder")
    keys.implied("data.params.wrap", "epochs follow each other")
    for part in ("train", "validation"):
        keys.implied(f"data.params.{part}.target", "a folder of images, data.source = folder")
    root = "data.params.train.params.data_root"
    if isinstance(keys.value(root), str) and not keys.is_placeholder(root):
        folder = f"{keys.value(root)}/{_TRAINING_IMAGES}"
        keys.mapped(root, {"data.path": folder}, "where the release looks for class folders")
    else:
        keys.path(root, "data.path")
    validation = "a folder of held-out images is --config.data.valid_path"
    keys.implied("data.params.validation.params.data_root", validation)
    keys.implied("data.params.num_workers", "threads read here, data.num_threads")
    if "data.params.batch_size" not in keys:
        return 256
    each = keys.number("data.params.batch_size", int, 8)
    devices = keys.number(f"{_TRAINER}.devices", int, 1)
    devices *= keys.number(f"{_TRAINER}.num_nodes", int, 1)
    batch, why = each * devices, f"{each} on each of {devices} GPUs"
    keys.mapped("data.params.batch_size", {"train.batch_size": batch}, why)
    groups = {"discriminator.stat_groups": devices}
    keys.mapped(f"{_TRAINER}.devices", groups, "the norms of its discriminator are of each GPU")
    keys.implied(f"{_TRAINER}.num_nodes", "in train.batch_size and discriminator.stat_groups")
    refused = "Lightning refuses it for a loss with two optimizers; expected 1"
    keys.only(f"{_TRAINER}.accumulate_grad_batches", [1], "none", refused)
    for name in ("strategy", "accelerator"):
        keys.implied(f"{_TRAINER}.{name}", "the mesh is planned for the devices that are there")
    given = str(keys.value(f"{_TRAINER}.precision"))
    if given in _PRECISIONS:
        keys.mapped(f"{_TRAINER}.precision", {"compute.dtype": _PRECISIONS[given]})
    elif f"{_TRAINER}.precision" in keys:
        keys.refused(f"{_TRAINER}.precision", f"expected one of {', '.join(_PRECISIONS)}")
    return batch


def _stages(keys: Keys, batch: int) -> None:
    epochs, epoch = f"{_TRAINER}.max_epochs", -(-_IMAGES // max(batch, 1))
    counted = f"an epoch is {epoch:,} steps ({_IMAGES:,} images)"
    empty = [key for key in (epochs, *(key for key, _, _ in _LONG)) if keys.value(key) is None]
    if len(empty) == len(_LONG) + 1:
        for key, ours, values in _LONG:
            keys.mapped(key, {ours: values}, "the three runs of the long recipe, in one")
        starts = (0, 100 * epoch, 115 * epoch)
        total = {"stages.start": starts, "train.num_steps": sum(_LONG_EPOCHS) * epoch}
        keys.mapped(epochs, total, f"100, 15 and 15 epochs, {counted}")
        return
    for key in empty:
        keys.refused(key, "it is empty; all five of the long recipe are, or give each a number")
    defaults: dict[str, Any] = {"disc_start": 1, "vf_weight": 1e2, "distmat_margin": 0.0}
    aligned = keys.settings.get("vae_loss.alignment") != "none"
    for key, ours, values in _LONG:
        name = key.rpartition(".")[2]
        if key in empty:
            continue
        if name != "disc_start" and not aligned and key not in keys:
            continue
        value = keys.number(key, type(values[0]), defaults.get(name, 0.0))
        why = "optimizer steps, two a batch" if name == "disc_start" else ""
        keys.mapped(key, {ours: (value,)}, why)
    if epochs in keys and epochs not in empty:
        steps = keys.number(epochs, int, 50) * epoch
        keys.mapped(epochs, {"train.num_steps": steps}, counted)


def _renamed(
    keys: Keys, key: str, ours: str, kind: type, default: Any = ABSENT, why: str = ""
) -> None:
    """A key with the release's default; without one it is only taken over where it is there."""
    value = keys.number(key, kind, default)
    if value is not ABSENT:
        keys.mapped(key, {ours: value}, why)


def _list(keys: Keys, key: str, ours: tuple[str, ...]) -> None:
    value = keys.value(key)
    if value is ABSENT:
        return
    if not isinstance(value, list) or not all(type(v) is int for v in value):
        keys.refused(key, "expected a list of whole numbers")
        return
    keys.mapped(key, dict.fromkeys(ours, tuple(value)))
