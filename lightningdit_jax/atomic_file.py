"""Files that appear under their name only when they are whole; JSON."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from lightningdit_jax.storage_errors import storage_error


@contextlib.contextmanager
def replacing(path: epath.PathLike, by: str = "") -> Iterator[epath.Path]:
    """Yields a temporary name beside path and renames it at the end; makes the folder.

    It is on disk before it has the name, so a machine that loses power leaves it whole or not
    there. After an exception nothing has the name, what had it before still has it, and the
    temporary file is gone. by: tells this writer from others who may write the same file at the
    same time. Raises StorageError.
    """
    path = epath.Path(path)
    temporary = path.with_name(f".{path.name}{by}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Not what a check of ours, in between, says of another file.
        refused = None if isinstance(error, ValueError) else storage_error(error, path)
        if refused is None:
            raise
        raise refused from error


def flush_to_disk(path: epath.Path) -> None:
    """Waits until a file, or all that is below a folder, is on disk; of a bucket it is already.

    Raises OSError for what the disk refuses now, since the system took it into memory before: a
    thin one that is full, one with errors.
    """
    if "://" in str(path):
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(os.path.join(folder, name))
        _flush(folder)
    if not path.is_dir():
        _flush(path)


def _flush(path: epath.PathLike) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # Of a file system that has nothing to wait for, or not for folders.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            error.filename = os.fspath(path)
            raise
    finally:
        os.close(file)


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON for people to read, one field a line."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def field_of(
    path: epath.PathLike, content: Mapping[str, Any], name: str, kind: type, default: Any
) -> Any:
    """A field of what a JSON file holds, `default` where there is none.

    Raises ValueError naming the file for one of another kind.
    """
    value = content.get(name, default)
    if not isinstance(value, kind):
        what = f"its '{name}' is {value!r:.40}; expected {kind.__name__}"
        raise ValueError(f"{path} is damaged: {what}")
    return value


def read_json(path: epath.PathLike, kind: type = dict) -> Any:
    """What a JSON file holds: fields, or a `list`.

    Raises FileNotFoundError, and ValueError naming a damaged file.
    """
    path = epath.Path(path)
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from error
    if not isinstance(content, kind):
        wanted = "fields" if kind is dict else "a list"
        raise ValueError(f"{path} is damaged: it holds {content!r:.40}; expected {wanted}")
    return content
