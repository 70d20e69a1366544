"""Whole files: PyTorch weights to a checkpoint directory, and back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from tqdm import tqdm

from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.registry import MODELS, Role, architecture
from lightningdit_jax.atomic_file import read_json, replacing, write_json
from lightningdit_jax.checkpoint import (
    FORMAT_VERSION,
    architecture_fields,
    find_checkpoint,
    item_names,
    read_host_arrays,
    save_checkpoint,
)
from lightningdit_jax.convert.convert import (
    abstract_params,
    infer_config,
    params_from_torch,
    params_to_torch,
)
from lightningdit_jax.convert.diffusers_config import (
    complete_hints,
    diffusers_config,
    read_diffusers_config,
)
from lightningdit_jax.convert.keymap import Hints, Tensors
from lightningdit_jax.convert.kinds import KINDS, detect_kind, find_kind
from lightningdit_jax.convert.replacement import check_replaceable, replace
from lightningdit_jax.convert.source import Source, read_source
from lightningdit_jax.convert.torch_io import save_torch
from lightningdit_jax.convert.training import convert_training
from lightningdit_jax.convert.vae import DIFFUSERS_SIGN, diffusers_names
from lightningdit_jax.data.latents import save_stats
from lightningdit_jax.errors import ConversionError, counted, listed
from lightningdit_jax.file_digest import file_sha256
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.tree_paths import not_finite

STATISTICS = "latent_stats"
KIND_NAMES = ("auto", *KINDS, STATISTICS)

_RELEASE_BYTES = 2**28
_PYTORCH = {"format": "pt"}  # which programs of PyTorch look for in safetensors files

Say = Callable[[str], None]


def convert_files(
    sources: Sequence[str],
    dst: str,
    *,
    kind: str = "auto",
    weights: str | None = None,
    hints: Hints = Hints(),  # noqa: B008, frozen
    without: Sequence[str] = (),
    latent_stats: str | None = None,
    latent_multiplier: float = 1.0,
    overwrite: bool = False,
    say: Say = print,
) -> None:
    """Converts PyTorch weights into a checkpoint that `load` reads.

    sources: one file or folder of weights, as `read_source` has it, or several that hold the parts
    of one model (LPIPS: a VGG16 and its heads).
    kind: one of KIND_NAMES; "latent_stats" writes latents_stats.safetensors into the folder dst.
    weights: of a training checkpoint, as `choose_weights` has it. without: modules that are left
    out. latent_stats: the file of a
    generator's latent statistics, "none" where it was trained on raw latents; they are stored with
    it.
    Raises ValueError listing every tensor that does not fit, and FileExistsError if dst is there
    and overwrite is off, or it is no converted checkpoint; nothing is written then.
    """
    target = epath.Path(dst)
    read = [read_source(path, weights) for path in sources]
    tensors, asked = _without(_merged(read), without)
    if kind == "auto":
        kind = _detect(read[0].name, tensors)
    if kind == STATISTICS:
        _convert_statistics(read[0], tensors, target, say)
        return
    check_replaceable(target, overwrite)
    entry = find_kind(kind)
    entry.check_hints(hints)
    is_generator = MODELS[entry.model].role is Role.GENERATOR
    latents = _latents(kind, is_generator, latent_stats, latent_multiplier)
    settings = None
    if kind == "sdvae" and DIFFUSERS_SIGN in tensors:
        settings = read_diffusers_config(read[0].path.parent)
        hints = complete_hints(read[0].name, hints, settings)
    tensors = entry.select(tensors)
    config = infer_config(kind, tensors, hints)
    if latents is not None and latent_stats is not None:
        latents.check_channels(config.in_channels, latent_stats)
    if settings is not None:
        settings.check(config)
        latents = settings.scaling(config)
    names = ", ".join(source.name for source in read)
    say(f"{names}: {kind}, {counted(len(tensors), 'tensor')} from {read[0].weights}")
    for source in read:
        for note in source.notes:
            say(f"  {note}")
    with _progress("converting", sum(tensor.nbytes for tensor in tensors.values())) as bar:

        def step(size: int) -> None:
            """Shows progress, and keeps what was read from staying in memory beside the result."""
            bar.update(size)
            if bar.n // _RELEASE_BYTES > (bar.n - size) // _RELEASE_BYTES:
                for source in read:
                    source.release()

        _, params = params_from_torch(kind, tensors, hints=hints, step=step)
    if bad := not_finite(params):
        raise ConversionError(f"these parameters of a {kind} hold NaN or infinities:", bad)
    keymap = entry.keymap(config)
    left_out = keymap.left_out(tensors) | asked
    for name, value in dataclasses.asdict(config).items():
        say(f"  {name:26s} {value}")
    if latents is not None:
        say(f"  {'scaled latents':26s} {latents}")
    if settings is not None and (unread := settings.unread(config)):
        say(f"  {settings.path.name}: keys that are not known here: {', '.join(unread)}")
    for reason, count in left_out.items():
        say(f"  left out: {counted(count, 'tensor')}, {reason}")
    paths = [path for source in read for path in source.files]
    paths += [settings.path] if settings else []
    with _progress("SHA-256", sum(path.stat().length for path in paths)) as bar:
        files = [{"file": path.name, "sha256": file_sha256(path, bar.update)} for path in paths]
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": entry.model,
        "architecture": dataclasses.asdict(config),
        "step": 0,
        "source": {
            "files": files,
            "kind": kind,
            "weights": read[0].weights.entry,
            "which": read[0].weights.which,
            "tensors": len(tensors) + sum(asked.values()),
            "converted": len(tensors) + sum(asked.values()) - sum(left_out.values()),
            "left_out": left_out,
        },
    }
    if latents is not None:
        meta["latents"] = latents.to_meta()
    elif is_generator:
        say("  not known: how its latents were normalized; --latent-stats stores that with it")
    items = {"params": params}
    if buffers := {k: np.array(tensors[k], np.float32) for k in keymap.buffers if k in tensors}:
        items["buffers"] = buffers
    replace(target, lambda path: save_checkpoint(str(path), items, {"meta": meta}))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count:,} parameters in {target}")


def convert_run(
    sources: Sequence[str],
    workdir: str,
    *,
    hints: Hints = Hints(),  # noqa: B008, frozen
    latent_stats: str | None = None,
    latent_multiplier: float = 1.0,
    say: Say = print,
) -> None:
    """Converts a training checkpoint of the release into a workdir, as convert_training does.

    latent_stats: as in convert_files; a run that goes on compares them with those of its data.
    """
    if len(sources) > 1:
        raise ValueError(f"one training checkpoint is converted; found {len(sources)}")
    scaling = _latents("generator", True, latent_stats, latent_multiplier)
    convert_training(sources[0], workdir, hints=hints, scaling=scaling, say=say)


def export_file(src: str, dst: str, *, overwrite: bool = False, say: Say = print) -> None:
    """Writes a checkpoint as the state dict that the release loads, `.pt` or `.safetensors`.

    Averaged weights where the checkpoint has them. Raises ValueError for another suffix and for
    weights that are not finite, FileExistsError where something is there.
    """
    _check_local(dst)
    target = epath.Path(dst)
    if target.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{target} ends in '{target.suffix}'; expected .pt or .safetensors")
    if target.is_dir():
        raise FileExistsError(f"{target} is a folder; expected a file to be written")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already; delete it or pass --overwrite")
    kind, config, tensors, item, _ = _state_dict(src)
    with replacing(target) as temporary:
        if target.suffix == ".pt":
            save_torch(temporary, tensors)
        else:
            safetensors.numpy.save_file(tensors, temporary, _PYTORCH)
    say(f"{len(tensors)} tensors of {kind} ({item}) in {target}")
    for line in _untold(kind, config, tensors):
        say(f"  not told by the file: {line}")


def export_diffusers(
    src: str,
    dst: str,
    *,
    latent_stats: str | None = None,
    latent_multiplier: float = 1.0,
    overwrite: bool = False,
    say: Say = print,
) -> None:
    """Writes a tokenizer as the folder that diffusers' AutoencoderKL.from_pretrained loads.

    latent_stats: the file of its latents' statistics, "none" where they are only multiplied. They
    go into config.json: the autoencoder does not use them, but pipelines do. Averaged weights
    where the checkpoint has them.
    Raises ValueError for another kind of checkpoint, where diffusers has no such architecture, the
    checkpoint knows its scaling already, or weights are not finite, and FileExistsError.
    """
    _check_local(dst)
    target = epath.Path(dst)
    weights, settings = target / "diffusion_pytorch_model.safetensors", target / "config.json"
    if weights.exists() or settings.exists() or target.is_file():
        if not _is_diffusers(target):
            raise FileExistsError(
                f"{target} is there already and no autoencoder of diffusers, which alone "
                "--overwrite replaces; choose another --dst"
            )
        if not overwrite:
            raise FileExistsError(f"{target} is there already; delete it or pass --overwrite")
    kind, config, tensors, item, meta = _state_dict(src)
    if kind != "vavae":
        raise ValueError(f"{src} is a {kind}; diffusers' AutoencoderKL takes a tokenizer, vavae")
    known = LatentScaling.from_meta(meta.get("latents"))
    given = _latents(kind, True, latent_stats, latent_multiplier)
    if known is not None and given is not None:
        raise ValueError(f"{src} says how its latents are scaled, {known}; leave the options out")
    scaling = known or given or LatentScaling()
    scaling.check_channels(config.embed_dim, latent_stats or src)
    values = diffusers_config(config, scaling)
    tensors = diffusers_names(config, tensors)
    with replacing(weights) as temporary:
        safetensors.numpy.save_file(tensors, temporary, _PYTORCH)
    write_json(settings, values)
    say(f"{len(tensors)} tensors of {kind} ({item}) and config.json in {target}")
    say(f"  scaled latents: {scaling}")
    if known is None and given is None:
        say("  not known: how its latents are scaled; --latent-stats writes that into config.json")


def _check_local(dst: str) -> None:
    if "://" in dst:
        raise ValueError(f"{dst} is remote; expected a path on a local disk")


def _is_diffusers(folder: epath.Path) -> bool:
    """Whether a folder holds what export_diffusers writes, or the half that it writes first."""
    settings = folder / "config.json"
    if folder.is_file() or not settings.exists():
        return folder.is_dir()
    try:
        content = read_json(settings)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("_class_name") == "AutoencoderKL"


def _state_dict(src: str) -> tuple[str, Any, dict[str, np.ndarray], str, dict[str, Any]]:
    """Of a checkpoint its kind, architecture, state dict, the item it is of, and meta."""
    checkpoint = find_checkpoint(src)
    meta = model_meta(checkpoint)
    kind, items = meta["kind"], item_names(checkpoint)
    config = architecture(kind, architecture_fields(meta))
    item = "ema" if "ema" in items else "params"
    params = read_host_arrays(checkpoint, item, abstract_params(kind, config))
    if bad := not_finite(params):
        raise ValueError(
            f"the weights of {checkpoint} ({item}) hold values that are not finite, in "
            f"{listed(bad)}; nothing was written, convert an earlier step"
        )
    buffers = None
    if "buffers" in items:
        buffers = read_host_arrays(
            checkpoint, "buffers", dict(find_kind(kind).keymap(config).buffers)
        )
    return kind, config, params_to_torch(kind, config, params, buffers), item, meta


def _untold(kind: str, config: Any, tensors: Tensors) -> list[str]:
    """What a state dict does not say of its architecture, or says otherwise, when read back."""
    try:
        back = dataclasses.asdict(infer_config(kind, tensors))
    except ConversionError as error:
        return error.problems
    fields = dataclasses.asdict(config).items()
    return [f"{n} is {v}, read back as {back[n]}" for n, v in fields if v != back[n]]


def _merged(sources: Sequence[Source]) -> Tensors:
    tensors: dict[str, np.ndarray] = {}
    for source in sources:
        if both := tensors.keys() & source.tensors.keys():
            raise ConversionError("these tensors are in several of the files:", sorted(both))
        tensors |= source.tensors
    return tensors


def _without(tensors: Tensors, modules: Sequence[str]) -> tuple[Tensors, dict[str, int]]:
    """The tensors but those of some modules, and how many those were, by reason."""
    counts = {}
    for module in modules:
        rest = {k: v for k, v in tensors.items() if not f"{k}.".startswith(f"{module}.")}
        if len(rest) == len(tensors):
            raise ValueError(f"--without={module}: no tensor is called so or stands under it")
        counts[f"--without={module}"] = len(tensors) - len(rest)
        tensors = rest
    return tensors, counts


def _detect(name: str, tensors: Tensors) -> str:
    if tensors.keys() == {"mean", "std"}:
        return STATISTICS
    kind = detect_kind(tensors)
    if kind is None:
        some = ", ".join(list(tensors)[:5])
        raise ValueError(
            f"{name} is of no kind that can be told from its tensors ({some}, ...); give "
            f"--kind, one of {', '.join(KIND_NAMES[1:])}"
        )
    return kind


def _convert_statistics(source: Source, tensors: Tensors, target: epath.Path, say: Say) -> None:
    stats = _statistics(source.name, tensors)
    target.mkdir(parents=True, exist_ok=True)
    save_stats(target, stats)
    say(f"statistics of {stats.channels} channels in {target}")


def _statistics(name: str, tensors: Tensors, multiplier: float = 1.0) -> LatentScaling:
    problems = [f"missing: {key}" for key in ("mean", "std") if key not in tensors]
    if problems:
        raise ConversionError(f"{name} does not hold latent statistics:", problems)
    try:
        return LatentScaling.of_arrays(tensors["mean"], tensors["std"], multiplier)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _latents(
    kind: str, is_generator: bool, path: str | None, multiplier: float
) -> LatentScaling | None:
    """What a generator's checkpoint says of its latents, as a training run writes it."""
    if path is None:
        if multiplier != 1:
            raise ValueError(
                f"--latent-multiplier is {multiplier} without --latent-stats; give the statistics "
                "too, or --latent-stats=none for a generator of raw latents"
            )
        return None
    if not is_generator:
        raise ValueError(f"latent statistics belong to a generator; this is a {kind}")
    if path == "none":
        return LatentScaling(multiplier=multiplier)
    return _statistics(path, read_source(path).tensors, multiplier)


def _progress(label: str, total: int) -> tqdm:
    """A bar over bytes on standard error, for what takes longer than half a second."""
    return tqdm(
        desc=label, total=total, unit="B", unit_scale=True, delay=0.5, leave=False, smoothing=0
    )
