"""Latents in the release's published format: safetensors shards and per-channel statistics.

A folder holds `latents_rank{RR}_shard{SSS}.safetensors`, each with `latents` and `latents_flip`
[N, C, H, W] (posterior samples of the images and of the mirrored images) and `labels` [N], and
`latents_stats.safetensors` or the release's `latents_stats.pt`. NCHW exists only in these files;
batches keep it until they are on the device, where `LatentScaling.normalize` makes NHWC of them.
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Iterable

import numpy as np
import safetensors.numpy
from etils import epath
from tqdm import tqdm

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.data.latents_digests import is_as_written, note_digest, read_digests
from lightningdit_jax.data.latents_record import (
    RECORD,
    class_names,
    latents_fingerprint,
    read_record,
)
from lightningdit_jax.data.shard_header import LATENT_DTYPES, check_header, read_header
from lightningdit_jax.errors import listed, one_line
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.object_stores import check_mounted
from lightningdit_jax.square import REASON
from lightningdit_jax.torch_reader import read_torch
from lightningdit_jax.verification import is_verifying

STATS_NAME = "latents_stats.safetensors"
TORCH_STATS_NAME = "latents_stats.pt"

_DTYPE_CODES = {dtype.name: code for code, dtype in LATENT_DTYPES.items()} | {"int64": "I64"}


def load_stats(folder: epath.PathLike) -> LatentScaling:
    """Statistics of a latents folder: its latents_stats.safetensors, else its latents_stats.pt.

    Raises FileNotFoundError if there is neither, and ValueError naming the file if it does not
    hold `mean` and `std`, or not as LatentScaling wants them, or is not as it was written.
    """
    folder = epath.Path(folder)
    path = folder / STATS_NAME
    if path.exists():
        try:
            tensors = safetensors.numpy.load(path.read_bytes())
        # The library lacks some of its own types, and says so by AttributeError or KeyError.
        except (safetensors.SafetensorError, AttributeError, LookupError) as error:
            said = one_line(error)
            raise ValueError(f"{path} is damaged, or of a type not read: {said}") from error
    elif (path := folder / TORCH_STATS_NAME).exists():
        tensors = read_torch(path)
    else:
        raise FileNotFoundError(
            f"{folder} has neither {STATS_NAME} nor {TORCH_STATS_NAME}; --mode=extract writes the "
            "first beside the latents, and the release publishes the second beside its tokenizer"
        )
    if not isinstance(tensors, dict) or not all(
        isinstance(tensors.get(name), np.ndarray) for name in ("mean", "std")
    ):
        raise ValueError(f"{path} lacks 'mean' or 'std'; expected both, [1, C, 1, 1]")
    if is_verifying() and is_as_written(path, read_digests(folder)) is False:
        raise ValueError(
            f"{path} is not as it was written (SHA-256); compute it again with --mode=extract, or "
            "copy it again"
        )
    try:
        return LatentScaling.of_arrays(tensors["mean"], tensors["std"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Compute them again with --mode=extract") from error


def save_stats(folder: epath.PathLike, stats: LatentScaling) -> None:
    """Writes latents_stats.safetensors, `mean` and `std` float32 [1, C, 1, 1]."""
    tensors = {
        "mean": np.asarray(stats.mean, np.float32).reshape(1, -1, 1, 1),
        "std": np.asarray(stats.std, np.float32).reshape(1, -1, 1, 1),
    }
    _write_parts(epath.Path(folder) / STATS_NAME, 0, [safetensors.numpy.save(tensors)])


def compute_stats(shards: "LatentShards", sample: int | None = None) -> LatentScaling:
    """Mean and unbiased standard deviation per channel over the unflipped latents.

    One pass in float64, merging the moments of blocks (Chan et al. 1983), over all latents or
    `sample` evenly spaced ones, so of all classes alike. The release takes 10,000 at random.
    """
    total = len(shards) if sample is None else min(sample, len(shards))
    count, mean, m2 = 0, np.zeros(shards.shape[-1]), np.zeros(shards.shape[-1])
    for start in range(0, total, 256):
        indices = np.arange(start, min(start + 256, total)) * len(shards) // total
        block = shards.read(indices, np.zeros(len(indices), bool)).astype(np.float64)
        block = block.reshape(-1, block.shape[-1])
        block_mean = block.mean(0)
        delta = block_mean - mean
        merged = count + len(block)
        m2 += ((block - block_mean) ** 2).sum(0) + delta**2 * (count * len(block) / merged)
        mean += delta * (len(block) / merged)
        count = merged
    if count < 2:
        raise ValueError(
            f"{shards.folder} holds one latent of 1x1, whose standard deviation does not exist; "
            "statistics take two numbers a channel: extract more images, or larger ones"
        )
    try:
        return LatentScaling.of_arrays(mean, np.sqrt(m2 / (count - 1)))
    except ValueError as error:
        raise ValueError(f"{shards.folder}: {error}; look at its latents") from error


def shard_name(rank: int, shard: int) -> str:
    """File name of a shard, as the release's."""
    return f"latents_rank{rank:02d}_shard{shard:03d}.safetensors"


def write_shard(
    folder: epath.PathLike,
    rank: int,
    shard: int,
    latents: np.ndarray,
    latents_flip: np.ndarray,
    labels: np.ndarray,
    dtype: str = "float32",
) -> epath.Path:
    """Writes one shard as the release's extract_features.py does, and returns its path.

    latents, latents_flip: [N, H, W, C], written as [N, C, H, W] of `dtype`: "float32", as the
    release, "bfloat16" or "float16". labels: [N], written as int64. The file appears under its name
    only when it is complete, and its digest is kept in the folder.
    Raises ValueError if the three do not belong together.
    """
    if (
        latents.ndim != 4
        or latents.shape != latents_flip.shape
        or labels.shape != latents.shape[:1]
    ):
        raise ValueError(
            f"latents {latents.shape}, latents_flip {latents_flip.shape} and labels {labels.shape} "
            "do not fit; expected [N, H, W, C], the same, and [N]"
        )
    stored = LATENT_DTYPES[_DTYPE_CODES[dtype]]
    tensors = {
        "labels": np.ascontiguousarray(labels, "<i8"),
        "latents": np.ascontiguousarray(np.moveaxis(latents, -1, 1), stored),
        "latents_flip": np.ascontiguousarray(np.moveaxis(latents_flip, -1, 1), stored),
    }
    metadata = {"total_size": str(len(labels)), "dtype": f"torch.{dtype}", "device": "cpu"}
    path = epath.Path(folder) / shard_name(rank, shard)
    _write_parts(
        path, rank, [_header(tensors, metadata), *(t.view(np.uint8).data for t in tensors.values())]
    )
    return path


def is_whole_shard(path: epath.PathLike) -> bool:
    """Whether a shard is there and, a power cut being possible, as long as its header says."""
    path = pathlib.Path(path)
    try:
        return path.exists() and bool(read_header(path))
    except ValueError:
        return False


def _header(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """What a safetensors file begins with. The safetensors library orders metadata at random."""
    entries: dict[str, dict] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        dtype = _DTYPE_CODES[tensor.dtype.name]
        entries[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned
    return len(header).to_bytes(8, "little") + header


def _write_parts(path: epath.Path, rank: int, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file of process `rank`, and before it has its name its digest."""
    digest = hashlib.sha256()
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
        note_digest(path.parent, rank, path.name, digest.hexdigest())


class LatentShards:
    """Random access by the batch to a folder of latent shards.

    The order is that of the release: files by name, then rows. Headers and labels are read and
    checked on construction; files are memory-mapped when first used or, with `resident`, read into
    memory on construction. Can be pickled without what is read or mapped, which is opened anew.
    Shards without a latent are left out; `notes` say so, for people. `class_names` are those of the
    images, where the extraction kept them, otherwise empty; `tokenizer` is the fingerprint of the
    weights that made the latents, None where nobody knows, and `record` extraction.json, None where
    there is none.

    Raises FileNotFoundError if there is no such folder or no shard in it, and ValueError naming
    the file that is truncated, damaged, lacks a tensor, or differs from the others, for a folder
    that lacks shards which were written to it, for one whose shards are all empty, and for one in
    a bucket. The bytes of latents are not compared with their digests: --mode=verify does that.
    """

    def __init__(self, folder: epath.PathLike, resident: bool = False):
        check_mounted(folder)
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder of latents. Set config.data.path to a local or mounted "
                "(gcsfuse) folder that --mode=extract wrote"
            )
        self.folder = folder
        names = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("."))
        self._paths = [folder / name for name in names if name != STATS_NAME]
        if not self._paths:
            raise FileNotFoundError(
                f"{folder} holds no latents_rank*_shard*.safetensors. Run --mode=extract, or point "
                "config.data.path to the folder it wrote"
            )
        lost = sorted(read_digests(epath.Path(folder)).keys() - {STATS_NAME, *names})
        if lost and is_verifying():
            raise ValueError(
                f"{folder} lacks {len(lost)} of the files that were written to it: {listed(lost)}; "
                "copy them, or go on with --mode=extract"
            )
        headers = {path: read_header(path) for path in self._paths}
        for path, header in headers.items():
            check_header(path, header)
        empty = [path.name for path in self._paths if not headers[path]["labels"].shape[0]]
        if len(empty) == len(headers):
            raise ValueError(f"{folder}: none of its {len(empty)} shards holds a latent")
        self.notes = [f"{folder}: empty and skipped: {listed(empty)}"] if empty else []
        self._paths = [path for path in self._paths if path.name not in empty]
        self._headers = [headers[path] for path in self._paths]
        first = self._headers[0]["latents"]
        for path, header in zip(self._paths, self._headers):
            this = header["latents"]
            if (this.dtype, this.shape[1:]) != (first.dtype, first.shape[1:]):
                raise ValueError(
                    f"{path} has latents {this.dtype} {list(this.shape[1:])}, but "
                    f"{self._paths[0].name} has {first.dtype} {list(first.shape[1:])}; a folder "
                    "holds the latents of one tokenizer"
                )
        self._starts = np.cumsum([0] + [h["labels"].shape[0] for h in self._headers])
        self.record = read_record(folder)
        self.class_names = class_names(self.record)
        self.tokenizer: str | None = (self.record or {}).get("tokenizer")
        extracted = (self.record or {}).get("images", {}).get("count")
        if extracted is not None and len(self) > extracted:
            raise ValueError(
                f"{folder} holds {len(self):,} latents, but its {RECORD} is of {extracted:,} "
                f"images; is one of its shards there twice? {listed([p.name for p in self._paths])}"
            )
        if extracted is not None and len(self) < extracted:
            self.notes.append(
                f"{folder}: {len(self):,} latents of the {extracted:,} images it was made of; the "
                "others could not be read, or shards are missing"
            )
        self._resident = resident
        self._files: dict[int, np.ndarray] = {}
        self._opened: dict[tuple[int, str], np.ndarray] = {}
        every = tqdm(self._paths, "latents into memory", unit=" files", disable=not resident)
        labels = [self._rows(i, "labels") for i, _ in enumerate(every)]
        self.labels = np.concatenate(labels).view("<i8")[:, 0]  # int64 [N], copied into memory

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}, "_opened": {}}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one latent."""
        channels, height, width = self._headers[0]["latents"].shape[1:]
        return height, width, channels

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the labels in order and of what the latents were made with."""
        return latents_fingerprint(self.record, self.labels)

    def read(self, indices: np.ndarray, flip: np.ndarray) -> np.ndarray:
        """Latents [B, H, W, C] float32 at `indices` [B]; the mirrored image's where `flip` [B].

        Raises IndexError for an index outside [0, len).
        """
        return self.read_stored(indices, flip).astype(np.float32).transpose(0, 2, 3, 1)

    def read_stored(self, indices: np.ndarray, flip: np.ndarray) -> np.ndarray:
        """As `read`, but [B, C, H, W] of the type in the files: one copy of the bytes."""
        indices, flip = np.asarray(indices, np.int64), np.asarray(flip, bool)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"latents {indices.min()}..{indices.max()} of {self.folder}, which has {len(self)}"
            )
        stored = self._headers[0]["latents"]
        dtype, shape = LATENT_DTYPES[stored.dtype], stored.shape[1:]
        latents = np.empty((len(indices), math.prod(shape) * dtype.itemsize), np.uint8)
        shard = np.searchsorted(self._starts, indices, side="right") - 1
        rows = indices - self._starts[shard]
        for place, where in enumerate(zip(shard.tolist(), flip.tolist(), rows.tolist())):
            i, mirrored, row = where
            latents[place] = self._rows(i, "latents_flip" if mirrored else "latents")[row]
        return latents.view(dtype).reshape(len(indices), *shape)

    def locate(self, index: int, flip: bool) -> str:
        """Where a latent is: "FILE, row R of latents", or of latents_flip."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        tensor = "latents_flip" if flip else "latents"
        return f"{self._paths[shard]}, row {index - self._starts[shard]} of {tensor}"

    def check(self, in_channels: int, input_size: int, num_classes: int) -> None:
        """Raises ValueError unless the latents fit a model of these channels, size and classes."""
        height, width, channels = self.shape
        if channels != in_channels:
            raise ValueError(
                f"{self.folder} holds latents of {channels} channels, but config.model.in_channels "
                f"is {in_channels}"
            )
        if height != width:
            raise ValueError(
                f"{self.folder} holds latents of {height}x{width}, but {REASON}; make them with "
                "--mode=extract, which crops images to squares"
            )
        if (height, width) != (input_size, input_size):
            raise ValueError(
                f"{self.folder} holds latents of {height}x{width}, but config.model.input_size is "
                f"{input_size}"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{self.folder} holds labels from {low} to {high}, but config.model.num_classes is "
                f"{num_classes}; expected labels from 0 to {num_classes - 1}"
            )
        if self.class_names and high >= len(self.class_names):
            raise ValueError(
                f"{self.folder} holds labels up to {high}, but its {RECORD} names "
                f"{len(self.class_names)} classes; they are not of one extraction"
            )

    def _rows(self, i: int, name: str) -> np.ndarray:
        """A tensor of shard i as bytes, uint8 [N, bytes of a row]."""
        if (i, name) not in self._opened:
            tensor = self._headers[i][name]
            data = self._file(i)[tensor.begin : tensor.end]
            size = len(data) // tensor.shape[0]
            self._opened[i, name] = data.reshape(tensor.shape[0], size)
        return self._opened[i, name]

    def _file(self, i: int) -> np.ndarray:
        if i not in self._files:
            path = self._paths[i]
            # Plain arrays: np.memmap's own indexing takes half as long as copying a latent.
            self._files[i] = np.asarray(
                np.fromfile(path, np.uint8) if self._resident else np.memmap(path, np.uint8, "r")
            )
        return self._files[i]
