"""A run that the release began -> a workdir in which training goes on."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from lightningdit_jax.checkpoint import FORMAT_VERSION, save_checkpoint
from lightningdit_jax.convert.convert import abstract_params, infer_config
from lightningdit_jax.convert.keymap import Hints, KeyMap, Tensors
from lightningdit_jax.convert.kinds import detect_kind, find_kind
from lightningdit_jax.convert.replacement import is_unfinished, replace
from lightningdit_jax.convert.source import Source, read_source
from lightningdit_jax.errors import ConversionError, plain
from lightningdit_jax.file_digest import file_sha256
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.torch_reader import read_torch
from lightningdit_jax.tree_paths import named_leaves

_KIND = "lightningdit"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_FROZEN = "pos_embed"  # a parameter of the release's that has no gradient, and so no moments


@dataclasses.dataclass(frozen=True)
class Adam:
    """The state of PyTorch's AdamW by names of parameters: steps taken, first, second moments.

    settings: learning rate, betas and the like, as the optimizer had them.
    """

    count: int
    moments: tuple[Tensors, Tensors]
    settings: Mapping[str, Any]


def convert_training(
    src: str,
    workdir: str,
    *,
    hints: Hints = Hints(),  # noqa: B008, frozen
    scaling: LatentScaling | None = None,
    say: Callable[[str], None] = print,
) -> epath.Path:
    """Writes WORKDIR/checkpoints/STEP of a file {model, ema, opt} that the release's training left.

    The step is the file's name where that is a number, as the release names it, else Adam's count:
    the release's own resumption begins to count anew. The data begins at that step of ours: the
    release keeps no position. scaling: of the latents, None where it is not known.
    Returns the checkpoint. Raises ValueError for another file, ConversionError, which lists
    everything that does not fit, and FileExistsError where the workdir holds checkpoints.
    """
    folder = epath.Path(workdir) / "checkpoints"
    if folder.exists() and not all(map(is_unfinished, folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; choose another workdir")
    raw = read_source(src, "model")
    if raw.weights.which != "model" or detect_kind(raw.tensors) != _KIND:
        raise ValueError(
            f"{src} holds {raw.weights}; expected a file {{model, ema, opt}} of a generator's "
            "training, as the release's train.py saves it"
        )
    content = read_torch(raw.path, MappedFile(raw.path))
    config = infer_config(_KIND, raw.tensors, hints)
    keymap, abstract = find_kind(_KIND).keymap(config), abstract_params(_KIND, config)
    adam = read_adam(
        content.get("opt"), [name for name in raw.tensors if name not in keymap.buffers]
    )
    sources = {"params": raw.tensors}
    average = read_source(raw.path, "ema")
    if average.weights.which == "ema":
        sources["ema"] = average.tensors
    else:
        say("no averages in the file: they start as a copy of the weights")
    items = {name: _tree(keymap, abstract, name, tensors) for name, tensors in sources.items()}
    first, second = (
        _tree(keymap, abstract, name, moment)
        for name, moment in zip(_MOMENTS, adam.moments, strict=True)
    )
    step = int(raw.path.stem) if raw.path.stem.isdigit() else adam.count
    items["opt_state"] = optax.tree.set(
        jax.eval_shape(optax.adamw(0.0).init, abstract),
        count=np.int32(adam.count),
        mu=first,
        nu=second,
    )
    items["step"] = {"step": np.int32(step)}
    meta = _meta(config, raw, step, content.get("config"), scaling)
    loop = {"data": {"next_index": step}, "window": [], "nonfinite": 0}
    target = folder / str(step)
    replace(target, lambda path: save_checkpoint(str(path), items, {"meta": meta, "loop": loop}))
    say(f"{raw.name}: step {step:,}, {', '.join(sources)} and AdamW after {adam.count:,} steps")
    shown = {name: plain(reprlib.repr(value)) for name, value in adam.settings.items()}
    settings = ", ".join(f"{name} {value}" for name, value in shown.items())
    say(f"  its optimizer: {settings}; the config has to say the same")
    say(f"written: {target}; go on with python main.py --config=... --workdir={workdir}")
    return target


def read_adam(opt: Any, names: list[str]) -> Adam:
    """The state that torch.optim.AdamW.state_dict() has for parameters of these names, in order.

    PyTorch numbers parameters as module.parameters() gives them, which is the order of the state
    dict without its buffers. Raises ConversionError listing everything that is not as AdamW has it.
    """
    headline = "the optimizer's state ('opt') is not of AdamW for these weights:"
    if not isinstance(opt, Mapping) or not {"state", "param_groups"} <= opt.keys():
        raise ConversionError(headline, ["expected a mapping with 'state' and 'param_groups'"])
    groups, state = opt["param_groups"], opt["state"]
    lists = isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)
    if not lists or not isinstance(state, Mapping):
        raise ConversionError(headline, ["expected groups of parameters, and a state by number"])
    indices = [group.get("params", []) for group in groups]
    if not all(isinstance(part, list) and all(type(i) is int for i in part) for part in indices):
        raise ConversionError(headline, ["expected numbers of parameters in its groups"])
    numbers = sorted(index for part in indices for index in part)
    if numbers != list(range(len(names))):
        problem = f"it counts {len(numbers)} parameters, the model has {len(names)}"
        raise ConversionError(headline, [problem])
    moments: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    counts, problems = set(), []
    for index, name in enumerate(names):
        entry = state.get(index, {})
        if not isinstance(entry, Mapping):
            problems.append(f"no state: that of {name}, a {type(entry).__name__}")
            continue
        unknown = {str(part) for part in entry} - {"step", *_MOMENTS}
        lacks = {"step", *_MOMENTS} - entry.keys()
        if name == _FROZEN and not entry:
            continue
        if unknown or lacks:
            problems += [f"missing: {part} of {name}" for part in sorted(lacks)]
            problems += [f"unknown: {part} of {name}" for part in sorted(unknown)]
            continue
        step = _step(entry["step"])
        if step is None:
            problems.append(f"no number of steps: step of {name}")
            continue
        counts.add(step)
        for moment, part in zip(moments, _MOMENTS, strict=True):
            if isinstance(entry[part], np.ndarray) and "float" in entry[part].dtype.name:
                moment[name] = entry[part]
            else:
                problems.append(f"no tensor of floats: {part} of {name}")
    if len(counts) > 1:
        problems.append(f"parameters took different numbers of steps: {sorted(counts)}")
    problems += [f"negative: exp_avg_sq of {n}" for n, m in moments[1].items() if (m < 0).any()]
    if problems or not counts:
        raise ConversionError(headline, problems or ["it is empty"])
    settings = {name: groups[0].get(name) for name in ("lr", "betas", "eps", "weight_decay")}
    return Adam(counts.pop(), moments, settings)


def _step(value: Any) -> int | None:
    """A number of steps, which PyTorch has as a tensor and before 1.12 as an int; or None."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1 and value.dtype.kind in "iuf":
        value = value.item()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 2**31 else None


def _tree(keymap: KeyMap, abstract: Any, what: str, tensors: Tensors) -> Any:
    """Weights or moments, which lie as the weights do: a layout moves values and changes none."""
    if what in _MOMENTS and _FROZEN not in tensors:
        shapes = keymap.torch_shapes(abstract)
        tensors = {_FROZEN: np.zeros(shapes[_FROZEN], np.float32), **tensors}
    if problems := keymap.check(tensors, abstract):
        raise ConversionError(f"'{what}' does not fit the model:", sorted(problems.values()))
    tree = keymap.from_torch(tensors, abstract)
    if bad := [name for name, leaf in named_leaves(tree) if not np.isfinite(leaf).all()]:
        raise ConversionError(f"'{what}' holds NaN or infinities:", bad)
    return tree


def _meta(
    config: Any, raw: Source, step: int, said: Any, scaling: LatentScaling | None
) -> dict[str, Any]:
    """What the checkpoint says of itself; a run compares it with its config."""
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": _KIND,
        "architecture": dataclasses.asdict(config),
        "step": step,
        "source": {
            "files": [{"file": path.name, "sha256": file_sha256(path)} for path in raw.files],
            "kind": _KIND,
            "weights": raw.weights.entry,
            "which": raw.weights.which,
            "tensors": len(raw.tensors),
            "converted": len(raw.tensors),
            "left_out": {},
        },
    }
    transport = said.get("transport") if isinstance(said, Mapping) else None
    if isinstance(transport, Mapping):
        path, prediction = transport.get("path_type"), transport.get("prediction")
        if not isinstance(path, str) or not isinstance(prediction, str):
            problem = f"path_type {reprlib.repr(path)}, prediction {reprlib.repr(prediction)}"
            raise ConversionError("its config says no names of a transport:", [problem])
        meta["flow"] = {"path": path.lower(), "prediction": prediction}
    if scaling is not None:
        meta["latents"] = scaling.to_meta()
    return meta
