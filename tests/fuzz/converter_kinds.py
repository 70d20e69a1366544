"""Training checkpoints with their optimizer, and weights of every kind, through the converter."""

import functools
import pathlib
import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from lightningdit_jax.convert import files, training
from lightningdit_jax.convert.keymap import Hints
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.torch_reader import read_torch
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind
from tests.fuzz.pickles import STORAGES, Writer
from tests.fuzz.torch_kinds import zip_file
from tests.golden import GOLDEN

RELEASE = GOLDEN / "checkpoints" / "release_full.pt"
_ARRAYS = (
    np.zeros(()),
    np.zeros((0,)),
    np.zeros((1, 1, 1, 1), "<f4"),
    np.full((3,), np.nan, "<f4"),
    np.full((2, 2), np.inf),
    np.arange(5),
    np.array(-7),
    np.array(2**62),
    np.array(1e300),
    np.zeros((2, 0, 3), "<f4"),
)


@functools.cache
def content() -> Any:
    """A small run of the release's; arrays in types that the writer here has."""

    def plain(value: Any) -> Any:
        match value:
            case np.ndarray():
                kind = value.dtype.str if value.dtype.str in STORAGES else "<f4"
                return np.array(value, kind)
            case OrderedDict():
                return OrderedDict((k, plain(v)) for k, v in value.items())
            case dict():
                return {k: plain(v) for k, v in value.items()}
            case list() | tuple():
                return type(value)(map(plain, value))
            case None | bool() | int() | float() | str():
                return value
        return "?"

    return plain(read_torch(RELEASE))


def _changed(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A copy in which one place is another."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        copy = type(value)(value)
        keys = list(copy)
        key = rng.choice(keys)
        match rng.randrange(12):
            case 0:
                del copy[key]
            case 1:
                copy[rng.choice((*mutations.TEXTS, 7, None, f"{key}.x", f"module.{key}"))] = (
                    copy.pop(key)
                )
            case 2:
                copy[key] = copy[rng.choice(keys)]
            case _:
                copy[key] = _changed(copy[key], rng, depth + 1)
        return copy
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        items = list(value)
        place = rng.randrange(len(items))
        items[place] = _changed(items[place], rng, depth + 1)
        return type(value)(items[: rng.choice((len(items),) * 9 + (0, 1))])
    if isinstance(value, np.ndarray) and rng.random() < 0.6:
        match rng.randrange(5):
            case 0:
                return value[:0] if value.ndim else value
            case 1:
                return value.T
            case 2:
                return value.reshape(-1)
            case 3:
                return np.array([value, value])
            case 4:
                return value.astype(rng.choice(list(STORAGES)))
    odd: tuple[Any, ...] = (*_ARRAYS, *mutations.VALUES, (1, 2), {"step": 3}, {0: 1}, [[1], [2]])
    return rng.choice(odd)


def _training_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"training {seed} {number}")
        whole = dict(content())
        part = rng.choice(("opt", "opt", "opt", "model", "ema", "config", None))
        if part == "opt" and rng.random() < 0.8:  # what is in the state, or in the groups
            opt = dict(whole["opt"])
            inner = rng.choice(("state", "param_groups"))
            opt[inner] = _changed(opt[inner], rng)
            whole["opt"] = opt
        elif part in whole:
            whole[part] = _changed(whole[part], rng)
        else:
            whole = _changed(whole, rng)
        writer = Writer()
        yield Input({"0000002.pt": zip_file(writer.pickle(whole), writer.storages)})


def _convert(folder: pathlib.Path, given: Input) -> None:
    """All but writing the checkpoint."""
    training.replace = lambda target, write: None
    training.convert_training(str(folder / "0000002.pt"), str(folder / "w"), say=lambda line: None)


@functools.cache
def _weights() -> dict[str, dict[str, np.ndarray]]:
    """State dicts of several kinds, all tiny."""
    found = {}
    for path in sorted((GOLDEN).glob("*.safetensors")):
        if ".weights." in path.name and path.stat().st_size < 2**20:
            found[path.name] = read_source(path).tensors
    ones = np.ones((1, 4, 1, 1), "<f4")
    found["statistics"] = {"mean": 0 * ones, "std": ones}
    found["generator"] = dict(read_source(RELEASE, "ema").tensors)
    return found


def _weights_inputs(seed: int, count: int) -> Iterator[Input]:
    made = _weights()
    for number in range(count):
        rng = random.Random(f"kinds {seed} {number}")
        state = {k: np.array(v, "<f4") for k, v in made[rng.choice(list(made))].items()}
        for _ in range(rng.choice((1, 1, 3))):
            name = rng.choice(list(state))
            match rng.randrange(6):
                case 0:
                    del state[name]
                case 1:
                    state[
                        rng.choice((*mutations.TEXTS, f"{name}.x", "blocks.-1.x", "blocks.99"))
                    ] = state[name]
                case 2 | 3:
                    state[name] = rng.choice(_ARRAYS)
                case _:
                    state[name] = np.asarray(_array(state[name], rng))
            if not state:
                break
        writer = Writer()
        options = rng.choice((None, None, *files.KIND_NAMES))
        yield Input({"x.pt": zip_file(writer.pickle(state), writer.storages)}, options)


def _array(value: np.ndarray, rng: random.Random) -> np.ndarray:
    flat = value.reshape(-1)
    return rng.choice((value.T, flat, flat[:1], np.stack([value] * 2), value * np.nan))


def _convert_weights(folder: pathlib.Path, given: Input) -> None:
    files.replace = lambda target, write: None
    files.save_stats = lambda target, stats: None
    files.convert_files(
        [str(folder / "x.pt")],
        str(folder / "w"),
        kind=given.given or "auto",
        hints=Hints(),
        say=lambda line: None,
    )


def _cleared(folder: pathlib.Path, given: Input, read: None) -> str:
    """A folder for statistics is made when all is checked."""
    if (folder / "w").is_dir():
        (folder / "w").rmdir()
    return ""


def _write_weights(folder: pathlib.Path) -> None:
    writer = Writer()
    pickled = writer.pickle({k: np.array(v, "<f4") for k, v in _weights()["generator"].items()})
    (folder / "x.pt").write_bytes(zip_file(pickled, writer.storages))


def _write_training(folder: pathlib.Path) -> None:
    writer = Writer()
    pickled = writer.pickle(content())
    (folder / "0000002.pt").write_bytes(zip_file(pickled, writer.storages))


KINDS = (
    Kind(
        "training checkpoints of PyTorch",
        _write_training,
        _training_inputs,
        _convert,
        is_threaded=True,
        names_file=False,
    ),
    Kind(
        "weights to be converted",
        _write_weights,
        _weights_inputs,
        _convert_weights,
        _cleared,
        is_threaded=True,
        names_file=False,
    ),
)
