"""Which weights of a training checkpoint are taken: its averages or the raw ones."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

# Entries of a file that hold a state dict, as training programs call them.
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")
_RAW = ("model", "state_dict", "model_state_dict")
_AVERAGED_PREFIXES = ("ema_model.", "model_ema.", "ema.")  # beside raw ones in one state dict
# What torch.compile, activation checkpointing and FSDP put into names, wherever they stand;
# DistributedDataParallel's `module` stands before them.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_PARALLEL = "module"
_PLURAL = {"ema": "averages", "model": "raw weights"}


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A state dict of a file. entry: its name there, "" where the file is the state dict itself.

    which: "ema" or "model", "" where the name does not tell. note: what the user has to know.
    """

    entry: str
    which: str
    state: Mapping[str, Any]
    note: str = ""

    def __str__(self) -> str:
        name = f"'{self.entry}'" if self.entry else "the file"
        return f"{name} ({_PLURAL[self.which]})" if self.which else name

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return {plain_name(key) for key in self.state}


def choose_weights(content: Mapping[str, Any], weights: str | None) -> Weights:
    """The state dict that is meant, of everything in a file.

    weights: "ema" or "model", whatever the file calls them, or the name of an entry, or of a module
    in one. None takes the averages where the file has any. Where the file lacks what is asked for,
    the other is taken and the note says so. Raises ValueError, a question, where it is not clear
    what is meant.
    """
    found = list(_candidates(content))
    asked = weights or "ema"
    for w in found:
        if w.entry == weights and (asked not in _PLURAL or w.which == asked):
            return w
    if asked not in _PLURAL:
        parts = [part for w in found for part in _under(w, asked)]
        averaged = [part for part in parts if part.which == "ema"]
        for choice in (parts, averaged):
            if len(choice) == 1:
                return choice[0]
        if parts:
            raise ValueError(f"it holds '{asked}' {len(parts)} times; {_question(parts)}")
        raise ValueError(
            f"it has no entry '{weights}', its weights are in {_names(found)}; give another "
            "--weights"
        )
    of_kind = [w for w in found if w.which == asked]
    reason = _unusable_averages(content)
    if asked == "ema" and not of_kind and reason and any(w.which == "model" for w in found):
        raise ValueError(
            f"{reason}, so it is not clear which weights are meant; --weights=model takes the raw "
            "ones"
        )
    named = of_kind or [w for w in found if w.which] or found
    taken = named[0]
    choice = [w for w in found if w in named or (not w.which and w.names == taken.names)]
    if len(choice) > 1:
        raise ValueError(
            f"it holds weights under {_names(choice)}, and it is not clear which are meant; "
            + _question(choice)
        )
    if taken.which in ("", asked):
        return taken
    note = f"no {_PLURAL[asked]} in the file: {_PLURAL[taken.which]} of '{taken.entry}'"
    if taken.which == "model" and (mangled := _mangled_prefix(taken.state)):
        note = f"raw weights of '{taken.entry}': its averages '{mangled}*' have mangled names"
    return dataclasses.replace(taken, note=note)


def plain_name(key: str) -> str:
    """The name of a tensor without what wrapped modules put into it."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    while parts[0] == _PARALLEL and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def wrappers_in(keys: Collection[str]) -> list[str]:
    """The parts of names that `plain_name` takes out."""
    parts = {part for key in keys for part in key.split(".")}
    found = [wrapper for wrapper in _WRAPPERS if wrapper in parts]
    if any(key.startswith(f"{_PARALLEL}.") for key in keys):
        found.append(_PARALLEL)
    return found


def _candidates(content: Mapping[str, Any]) -> Iterator[Weights]:
    """Every state dict in the file; at least one."""
    entries = {str(name): value for name, value in content.items() if _is_state(value)}
    if not entries.keys() & {*_AVERAGED, *_RAW} and (_is_state(content) or not entries):
        entries = {"": content}
    for name, state in entries.items():
        which = "ema" if name in _AVERAGED else "model" if name in _RAW else ""
        rest, note = dict(state), ""
        for prefix in _AVERAGED_PREFIXES:
            part = [key for key in state if plain_name(key).startswith(prefix)]
            if any("." in plain_name(key).removeprefix(prefix) for key in part):
                averages = {key.replace(prefix, "", 1): rest.pop(key) for key in part}
                yield Weights(
                    f"{name}.{prefix}".strip("."),
                    "ema",
                    averages,
                    f"averages '{prefix}*'; {len(state) - len(part)} tensors beside them left out",
                )
                which, note = "model", f"raw weights; averages '{prefix}*' beside them left out"
        if rest or not state:
            yield Weights(name, which, rest, note)


def _under(weights: Weights, name: str) -> Iterator[Weights]:
    """The tensors of a state dict whose names begin with a module's; none or one."""
    prefix = name.removeprefix(f"{weights.entry}.") + "."
    names = {key: plain_name(key) for key in weights.state}
    part = {k: v for k, v in weights.state.items() if names[k].startswith(prefix)}
    if part:
        state = {names[key].removeprefix(prefix): value for key, value in part.items()}
        if len(state) < len(part):
            raise ValueError(f"tensors of '{name}' are there twice, with and without a prefix")
        yield Weights(
            f"{weights.entry}.{prefix}".strip("."),
            weights.which,
            state,
            f"tensors '{prefix}*'; {len(names) - len(part)} beside them left out",
        )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(v, np.ndarray) for v in value.values())
    )


def _unusable_averages(content: Mapping[str, Any]) -> str:
    """Why an entry called as averages are holds none; "" where there is no such entry."""
    for name in _AVERAGED:
        if name in content and not isinstance(content[name], np.ndarray):
            value = content[name]
            empty = isinstance(value, Mapping) and not value
            return (
                f"'{name}' is {'empty' if empty else f'a {type(value).__name__} without tensors'}"
            )
    return ""


def _mangled_prefix(state: Mapping[str, Any]) -> str:
    """The prefix of averages whose names have lost their dots, as Latent Diffusion saves them."""
    keys = [plain_name(key) for key in state]
    return next((p for p in _AVERAGED_PREFIXES if any(k.startswith(p) for k in keys)), "")


def _question(choice: list[Weights]) -> str:
    return "give " + " or ".join(f"--weights={w.entry}" for w in choice)


def _names(found: list[Weights]) -> str:
    return ", ".join(str(w) for w in found)
