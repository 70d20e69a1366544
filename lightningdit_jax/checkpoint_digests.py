"""The digests of a checkpoint: what its arrays and its JSON were when they were saved.

CHECKPOINT/digests holds a file of each process that saved, `process_0.json` and so on, with the
digests of the parts of arrays that it held (array_digest), by item and name; that of the main
process those of the JSON items too. Each file ends with a digest of itself. Orbax keeps no
checksum of the bytes of an array. The folder of a hub's repository has the same in its config.json.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from lightningdit_jax.array_digest import ArrayDigest, TreeDigests
from lightningdit_jax.atomic_file import read_json
from lightningdit_jax.hub_folder import CONFIG_FILE, is_hub_folder, read_config

ITEM = "digests"
VERSION = 1  # of all that a digest depends on; a checkpoint's meta says it

# By item and name of leaf.
ArrayDigests = dict[str, dict[str, ArrayDigest]]


class Digests:
    """What a checkpoint's arrays and JSON items should be.

    Raises FileNotFoundError where there are none, and ValueError for damaged ones.
    """

    def __init__(self, checkpoint: epath.Path):
        folder = checkpoint / ITEM
        if is_hub_folder(checkpoint):
            folder = checkpoint / CONFIG_FILE
            contents = [_unsealed(read_config(checkpoint)["digests"], folder)]
        else:
            # Listed, since exists() takes every error for absence.
            files = [path for path in folder.iterdir() if path.suffix == ".json"]
            contents = [_unsealed(read_json(path), path) for path in files]
        if not contents:
            raise FileNotFoundError(f"{folder} is empty")
        try:
            self.arrays: ArrayDigests = {}
            self.json: dict[str, str] = {}
            for content in contents:
                self._add(content)
            saved_by = {content["processes"] for content in contents}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{folder} is damaged: {error!r}") from error
        if saved_by != {len(contents)}:
            raise ValueError(f"{folder} holds {len(contents)} files; expected one a process")

    def _add(self, content: Mapping[str, Any]) -> None:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}; this program reads {VERSION}")
        self.json |= content["json"]
        for item, arrays in content["arrays"].items():
            digests = self.arrays.setdefault(item, {})
            for name, value in arrays.items():
                part = ArrayDigest.from_json(value)
                digests[name] = digests[name] + part if name in digests else part

    def tree(self, item: str) -> Any:
        """An item's tree, ShapeDtypeStructs for leaves. Raises KeyError without such an item."""
        tree: dict[str, Any] = {}
        for name, digest in self.arrays[item].items():
            *parents, leaf = name.split("/")
            inner = tree
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[leaf] = jax.ShapeDtypeStruct(digest.shape, jnp.dtype(digest.dtype))
        return tree

    def changed_json(self, values: Mapping[str, Any]) -> list[str]:
        """Names of JSON items that are not as they were saved, of these, by name, or not there."""
        found = {item: json_digest(value) for item, value in values.items()}
        return [i for i in sorted({*found, *self.json}) if found.get(i) != self.json.get(i)]


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, which no way of writing it down changes."""
    value = json.loads(json.dumps(value))  # tuples are lists, keys are text then
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class DigestsHandler(ocp.AsyncCheckpointHandler):
    """Writes the digests of one process, in the background."""

    async def async_save(self, directory: epath.Path, args: "DigestsSave") -> list[Any]:
        """See AsyncCheckpointHandler."""

        async def write() -> None:
            args.write(directory)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="digests")]

    def save(self, directory: epath.Path, args: "DigestsSave") -> None:
        """See CheckpointHandler."""
        args.write(directory)

    def restore(self, directory: epath.Path, args: Any = None) -> Digests:
        """See CheckpointHandler. Raises as Digests, of all processes' files."""
        return Digests(directory.parent)


@ocp.args.register_with_handler(DigestsHandler, for_save=True, for_restore=True)
class DigestsSave(ocp.args.CheckpointArgs):
    """What DigestsHandler saves: of the items of arrays, and of the JSON items.

    Starts computing; the arrays may be donated afterwards.
    """

    def __init__(self, arrays: Mapping[str, Any], json: Mapping[str, Any]):
        self._arrays = {item: TreeDigests(tree) for item, tree in arrays.items()}
        self._json = {item: json_digest(value) for item, value in json.items()}
        self._process, self._processes = jax.process_index(), jax.process_count()

    def write(self, folder: epath.Path) -> None:
        """Waits for the digests and writes the file of this process."""
        arrays = {
            item: {name: digest.to_json() for name, digest in pending.result().items()}
            for item, pending in self._arrays.items()
        }
        content = seal(arrays, self._json if self._process == 0 else {}, self._processes)
        (folder / f"process_{self._process}.json").write_text(json.dumps(content))


def seal(arrays: Mapping[str, Any], json: Mapping[str, str], processes: int = 1) -> dict[str, Any]:
    """What a file of digests holds. arrays: by item and name; json: by item."""
    content = {"version": VERSION, "processes": processes, "arrays": arrays, "json": json}
    return {"content": content, "sha256": json_digest(content)}


def _unsealed(sealed: Mapping[str, Any], path: epath.Path) -> dict[str, Any]:
    """Raises ValueError where they are damaged. path: of the file that they are read from."""
    if json_digest(sealed.get("content")) != sealed.get("sha256"):
        raise ValueError(f"{path} is damaged: it is not as it was written")
    return sealed["content"]
