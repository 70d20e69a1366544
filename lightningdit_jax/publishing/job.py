"""A checkpoint as what a repository of the hub holds: a folder, and one commit.

What is published: one set of weights, those that sampling takes unless others are asked for, under
the name `params` as a converted checkpoint has them; further averages are repositories, or
branches, of their own.
"""

import dataclasses
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from lightningdit_jax.array_digest import tree_digests
from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.loading import check_average, model_meta
from lightningdit_jax.assembly.registry import abstract_model, architecture, model_of
from lightningdit_jax.assembly.synthesis import plan_synthesis, read_synthesis
from lightningdit_jax.atomic_file import flush_to_disk
from lightningdit_jax.averages import WEIGHTS, power_name, weights_item
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    item_names,
    read_host_arrays,
    use_checkpoint,
)
from lightningdit_jax.checkpoint_digests import json_digest, seal
from lightningdit_jax.checkpoint_reading import array_metadata
from lightningdit_jax.checkpoint_writing import naming_items
from lightningdit_jax.errors import listed
from lightningdit_jax.hub import Address, commit_files, is_address, prepare, read_file
from lightningdit_jax.hub_folder import (
    CARD_FILE,
    is_hub_folder,
    is_weights,
    write_config,
    write_weights,
)
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.publishing.card import MARK, PICTURE_FILE, Published, card
from lightningdit_jax.publishing.run import run_of
from lightningdit_jax.storage_errors import storing
from lightningdit_jax.tree_paths import named_leaves, not_finite

BUFFERS = "buffers"  # tables of converted weights, to the last bit
_UNKNOWN = Address("OWNER/NAME")
_SAYS_FOLDERS = ("config", "history", "init", "tokenizer")  # fields of a checkpoint's meta

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Average:
    """Which weights of a checkpoint, as `load` chooses them."""

    use_ema: bool
    ema_decay: float
    ema_sigma: float

    def item(self, checkpoint: epath.Path) -> str:
        """What they are called. Raises ValueError where there are none, or none can be made."""
        if self.ema_sigma:
            plan_synthesis(checkpoint, self.ema_sigma)
            return power_name(self.ema_sigma)
        return weights_item(item_names(checkpoint), self.use_ema, self.ema_decay, str(checkpoint))


def save_for_hub(
    checkpoint: str,
    folder: str,
    *,
    use_ema: bool = True,
    ema_decay: float = 0.0,
    ema_sigma: float = 0.0,
    license: str = "",
    overwrite: bool = False,
    say: Say = print,
) -> None:
    """Writes a checkpoint as the folder that a repository of the hub holds; `load` reads it.

    model.safetensors (several files with an index above 5 GB), config.json with what the checkpoint
    says of itself and digests, README.md, a model card made of that and of the results in the
    checkpoint's workdir, and the newest picture of its training. Paths in it are cut down to their
    last names. checkpoint, use_ema, ema_decay, ema_sigma: as for `load`. license: as the hub calls
    it, such as "mit"; empty says none. overwrite: whether a folder that this has written is
    replaced.
    Raises what load raises, FileExistsError where something else is there, and StorageError.
    """
    average = Average(use_ema, ema_decay, ema_sigma)
    _check(checkpoint, average)
    target = pathlib.Path(folder)
    if "://" in folder:
        raise ValueError(f"{folder} is remote; expected a folder on a local disk")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not is_hub_folder(epath.Path(target)):
            raise FileExistsError(
                f"{target} is there already and holds no model for the hub, which alone is "
                "replaced; choose another folder"
            )
        if not overwrite:
            raise FileExistsError(
                f"{target} is there already; delete it, or pass overwrite (--overwrite)"
            )
    fresh, former = (target.with_name(f".{target.name}.{which}") for which in ("new", "former"))
    with storing(target):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            line = _write(checkpoint, epath.Path(fresh), _UNKNOWN, average, license)
            flush_to_disk(epath.Path(fresh))
            if target.exists():
                shutil.rmtree(former, ignore_errors=True)
                target.rename(former)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if target.exists():
                shutil.rmtree(former, ignore_errors=True)
            elif former.exists():  # of a command that was ended between two names, too
                former.rename(target)
    say(f"{line} in {target}")


def push_to_hub(
    checkpoint: str,
    repository: str,
    *,
    private: bool | None = None,
    revision: str = "",
    token: str | None = None,
    commit_message: str = "",
    use_ema: bool = True,
    ema_decay: float = 0.0,
    ema_sigma: float = 0.0,
    license: str = "",
    say: Say = print,
) -> str:
    """Puts a checkpoint into a repository of the hub, in one commit; returns the commit's URL.

    What save_for_hub writes, without keeping it here; `load("hf://OWNER/NAME")` reads it. Weights
    that the repository has of a former push are replaced, other files stay, and so does a model
    card that somebody wrote. repository: "OWNER/NAME", made where there is none. private: of one
    that is made; None is what its owner's settings say. revision: a branch; empty is the main one.
    token: empty is that of `hf auth login` or HF_TOKEN. The rest as for save_for_hub.
    Raises as save_for_hub, and ValueError where the hub cannot be reached or refuses.
    """
    where = Address.parse(repository if is_address(repository) else f"hf://{repository}")
    if where.path or (where.revision and revision):
        raise ValueError(
            f"{repository}: a model is put into a whole repository; expected OWNER/NAME, and the "
            "branch as revision or behind @"
        )
    branch = revision or where.revision
    average = Average(use_ema, ema_decay, ema_sigma)
    _check(checkpoint, average)  # what cannot be published makes no repository
    there = prepare(where.repository, private=private, revision=branch, token=token)
    where = Address(where.repository, branch)
    with storing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
        line = _write(checkpoint, epath.Path(folder), where, average, license)
        files = {path.name: path for path in pathlib.Path(folder).iterdir()}
        if CARD_FILE in there and MARK not in read_file(
            where.repository, CARD_FILE, revision=branch, token=token
        ):
            say(f"{CARD_FILE} of {where} is somebody's own and is kept")
            del files[CARD_FILE]
        url = commit_files(
            where.repository,
            files,
            delete=[name for name in there if is_weights(name) and name not in files],
            message=commit_message or line,
            revision=branch,
            token=token,
        )
    say(f"{line}: {url}")
    return url


def _check(path: str, average: Average) -> None:
    """Raises what can be known before anything is read or made."""
    check_average(**vars(average))
    if jax.process_count() > 1:
        raise ValueError("a model is published by one process; start it alone")
    checkpoint = find_checkpoint(path)
    model_meta(checkpoint)
    average.item(checkpoint)


def _write(path: str, folder: epath.Path, where: Address, average: Average, license: str) -> str:
    """Writes the folder; returns what it holds in a line. where: what its card tells to load."""

    def read(checkpoint: epath.Path) -> tuple[epath.Path, dict[str, Any], str, dict[str, Any]]:
        meta, there = model_meta(checkpoint), item_names(checkpoint)
        kind, item = meta["kind"], average.item(checkpoint)
        _, shapes = abstract_model(kind, architecture(kind, architecture_fields(meta)))
        if average.ema_sigma:
            mesh = make_mesh(devices=jax.devices()[:1])
            placed = abstract_on_mesh(shapes, mesh, model_of(kind).rules)
            weights = jax.device_get(read_synthesis(checkpoint, average.ema_sigma, placed))
        else:
            weights = read_host_arrays(checkpoint, item, shapes)
        if bad := not_finite(weights):
            raise ValueError(
                f"the weights of {checkpoint} ({item}) hold values that are not finite, in "
                f"{listed(bad)}; nothing was written, publish an earlier step"
            )
        arrays = {WEIGHTS: weights}
        if BUFFERS in there:
            tables = array_metadata(checkpoint, BUFFERS)
            arrays[BUFFERS] = read_host_arrays(checkpoint, BUFFERS, tables)
        return checkpoint, meta, item, arrays

    checkpoint, meta, item, arrays = use_checkpoint(path, read)
    run = run_of(checkpoint, meta, weights_fingerprint(arrays[WEIGHTS]))
    meta = {**meta, **_without_folders({k: meta[k] for k in _SAYS_FOLDERS if k in meta})}
    # Of weights that were published before it is known already.
    meta |= {"published": meta.get("published") or {"weights": item}}
    meta = naming_items(arrays, {"meta": meta})["meta"]
    named = {name: dict(named_leaves(tree)) for name, tree in arrays.items()}
    write_weights(folder, named)
    if run.picture is not None:
        (folder / PICTURE_FILE).write_bytes(run.picture.read_bytes())
    count = sum(array.size for array in named[WEIGHTS].values())
    published = Published(where, meta, count, run, license)
    (folder / CARD_FILE).write_text(card(published))
    digests = {
        name: {leaf: digest.to_json() for leaf, digest in tree_digests(tree).items()}
        for name, tree in arrays.items()
    }
    write_config(folder, meta, seal(digests, {"meta": json_digest(meta)}))
    return f"{meta['kind']}, step {meta['step']:,}, {count:,} parameters ({item})"


def _without_folders(value: Any) -> Any:
    """JSON whose absolute paths and buckets are their last names: who is who stays at home."""
    if isinstance(value, Mapping):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    is_path = isinstance(value, str) and (
        value.startswith(("/", "~")) or ("://" in value and not is_address(value))
    )
    return posixpath.basename(value.rstrip("/")) if is_path else value
