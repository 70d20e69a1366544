"""A folder of weights -> the file in it that holds them, or the index of its shards."""

import dataclasses
import re
from collections.abc import Sequence

from etils import epath

from lightningdit_jax.hub import is_address, open_repository
from lightningdit_jax.hub_folder import CONFIG_FILE, is_hub_folder
from lightningdit_jax.storage_errors import check_absent

INDEX_SUFFIX = ".index.json"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # the better ones first
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HALF = re.compile(r"\.(fp16|bf16)$")  # the same weights once more
_SAME = {"pytorch_model": "model"}  # what transformers calls a .bin and a .safetensors file
# Beside weights in the folders of training programs and of the release; no weights themselves.
_OTHERS = re.compile(r"(optimizer|scheduler|sampler|scaler|training_args|latents_stats)\b")
_NOTHING_TO_CONVERT = (
    "{} holds a model of this program; nothing is to be converted, it is taken as a checkpoint is"
)


def find_weights(path: str | epath.Path) -> epath.Path:
    """The file of weights, or the index of shards, that a path means: itself, or one in it.

    path: local, or an address of the hub, hf://..., from which that file is fetched. Of a folder
    that holds the same weights several times safetensors are taken, and the full precision. Raises
    FileNotFoundError, and ValueError where a folder holds none or weights of several names, or is
    one of torch.distributed, or of this program; of an address as open_repository.
    """
    if is_address(path):
        return _fetched(str(path))
    path = epath.Path(path)
    if path.suffix == ".distcp":
        _refuse_distributed(path.parent)
    if path.is_file():
        return path
    if not path.is_dir():
        check_absent(path)
        raise FileNotFoundError(f"{path}: no such file or folder")
    if is_hub_folder(path):
        raise ValueError(_NOTHING_TO_CONVERT.format(path))
    return path / _chosen(str(path), [p.name for p in path.iterdir()])


def _fetched(address: str) -> epath.Path:
    """What find_weights finds at an address: the local file, what belongs to it beside it."""
    repository = open_repository(address)
    if repository.names == ("",):
        parent, _, name = repository.address.path.rpartition("/")
        at = dataclasses.replace(repository.address, path=parent)
        repository = open_repository(str(at))
    else:
        name = _chosen(address, [name for name in repository.names if "/" not in name])
    names = [name, *(n for n in repository.names if n == CONFIG_FILE)]  # diffusers writes one
    if name.endswith(INDEX_SUFFIX):
        stem = re.escape(name.removesuffix(INDEX_SUFFIX).rpartition(".")[0])
        names += [n for n in repository.names if re.match(rf"{stem}-\d{{5}}-of-\d{{5}}\.", n)]
    folder = repository.fetch(names)
    if is_hub_folder(folder):
        raise ValueError(_NOTHING_TO_CONVERT.format(address))
    return folder / name


def _chosen(where: str, names: Sequence[str]) -> str:
    """The one of the files in a folder that find_weights takes."""
    names = sorted(names)
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        _refuse_distributed(where)
    if "model_index.json" in names:
        raise ValueError(
            f"{where} is a pipeline of diffusers, several models; give the folder of one, "
            f"{where}/vae"
        )
    groups: dict[str, list[tuple]] = {}
    for name in names:
        stem = name.removesuffix(INDEX_SUFFIX)
        suffix = next((s for s in _SUFFIXES if stem.endswith(s)), None)
        if suffix is None or _OTHERS.match(name) or name.startswith("."):
            continue
        stem = stem.removesuffix(suffix)
        whole = _HALF.sub("", _SHARD.sub("", stem))
        is_shard, is_half = bool(_SHARD.search(stem)), bool(_HALF.search(_SHARD.sub("", stem)))
        rank = (is_shard, is_half, _SUFFIXES.index(suffix), name)
        groups.setdefault(_SAME.get(whole, whole), []).append(rank)
    if len(groups) != 1:
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        found = ", ".join(min(ranks)[-1] for ranks in groups.values())
        raise ValueError(
            f"{where} holds weights of several names, {found}; give one of the files"
            if groups
            else f"{where} holds no weights, but {some or 'nothing'}; expected a file that ends in "
            f"{', '.join(_SUFFIXES)} or {INDEX_SUFFIX}"
        )
    is_shard, *_, name = min(next(iter(groups.values())))
    if is_shard:
        raise ValueError(
            f"{where} holds shards such as {name} without their index, a file that ends in "
            f"{INDEX_SUFFIX} and tells whether all are there; copy it too"
        )
    return name


def _refuse_distributed(folder: str | epath.Path) -> None:
    raise ValueError(
        f"{folder} is a checkpoint of torch.distributed (.metadata, .distcp); make a file of it "
        f"first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pt"
    )
