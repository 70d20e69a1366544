"""Headers of latent shards, checked before anything is believed of the tensors behind them."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from lightningdit_jax.errors import listed, one_line

LATENT_DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor inside a safetensors file; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Parses the header: its length as 8 bytes, JSON, then the tensors.

    Raises ValueError if the file's size is not what the header says, and for tensors that overlap.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise ValueError(
                f"{path} is truncated or not safetensors: {size} bytes, while its header alone "
                f"would take {8 + length}. Copy or extract it again"
            )
        try:
            entries = json.loads(file.read(length), object_pairs_hook=_once)
            metadata = entries.pop("__metadata__", {})
            if not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("its metadata are no texts")
            tensors = {name: _stored(entry, 8 + length) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"{path} has a damaged safetensors header: {reason}") from error
    # As the safetensors library has it: tensors lie side by side and fill the file.
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end or tensor.end < tensor.begin:
            raise ValueError(
                f"{path} has a damaged safetensors header: '{name}' is at bytes {tensor.begin} to "
                f"{tensor.end}, where tensors that neither overlap nor leave gaps begin at {end}"
            )
        end = tensor.end
    if size != end:
        raise ValueError(
            f"{path} is truncated or damaged: {size} bytes, expected {end}. Copy or extract "
            "it again"
        )
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError for one that has a name twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"one of the names {listed(list(found))} is there twice")
    return found


def _stored(entry: dict, offset: int) -> StoredTensor:
    """Raises ValueError or TypeError for an entry that is not as safetensors has it."""
    begin, end = entry["data_offsets"]
    numbers = [*entry["shape"], begin, end]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"sizes and offsets {numbers} are no numbers from 0")
    return StoredTensor(str(entry["dtype"]), tuple(entry["shape"]), offset + begin, offset + end)


def check_header(path: pathlib.Path, header: dict[str, StoredTensor]) -> None:
    """Raises ValueError unless the tensors are those of a shard of latents, and of their sizes."""
    for name in ("latents", "latents_flip", "labels"):
        if name not in header:
            raise ValueError(
                f"{path} lacks the tensor '{name}', it has {sorted(header)}. A folder of latents "
                "holds nothing else with the suffix .safetensors"
            )
    latents, flip, labels = header["latents"], header["latents_flip"], header["labels"]
    if latents.dtype not in LATENT_DTYPES or labels.dtype != "I64":
        raise ValueError(
            f"{path} has latents {latents.dtype} and labels {labels.dtype}; expected "
            f"{' or '.join(LATENT_DTYPES)}, and I64"
        )
    if len(latents.shape) != 4 or labels.shape != latents.shape[:1]:
        raise ValueError(
            f"{path} has latents {list(latents.shape)} and labels {list(labels.shape)}; expected "
            "[N, C, H, W] and [N]"
        )
    if (flip.dtype, flip.shape) != (latents.dtype, latents.shape):
        raise ValueError(
            f"{path} has latents_flip {flip.dtype} {list(flip.shape)}, but latents "
            f"{latents.dtype} {list(latents.shape)}"
        )
    for tensor in (latents, flip, labels):
        itemsize = 8 if tensor is labels else LATENT_DTYPES[tensor.dtype].itemsize
        if tensor.end - tensor.begin != itemsize * math.prod(tensor.shape):
            raise ValueError(f"{path} is damaged: a tensor's size differs from its shape")
