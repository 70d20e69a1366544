"""One command at a time writes an output: who comes second is told who holds it, and since when.

On a disk the system locks a file for the process that writes (fcntl, which NFS 4 carries between
hosts), and frees it when that process ends, however it ends. Where there are no such locks, and in
an object store, the file is a lease: lease.py.
"""

import contextlib
import datetime
import errno
import fcntl
import functools
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from lightningdit_jax.interruption import INTERRUPTION
from lightningdit_jax.lease import Lease
from lightningdit_jax.storage_errors import storage_error

_HELD = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

Release = Callable[[], None]


@contextlib.contextmanager
def sole_writer(
    folder: epath.PathLike, name: str, job: str, *, what: str = "", needed: bool = True
) -> Iterator[None]:
    """Holds FOLDER/.NAME.lock within it; a signal that ends the process frees it too.

    job: how people call what holds it. what: the output, as a refusal names it; empty: the folder.
    needed: whether a folder that cannot be written is an error here; otherwise it will be one when
    it is written to. Raises ValueError naming the one who holds it, and StorageError.
    """
    folder = epath.Path(folder)
    path = folder / f".{name}.lock"
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job,
        "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder, or nothing")
    made = _missing(folder)
    try:
        release = _taken(path, holder, what or str(folder))
    except OSError as error:
        _remove(made)
        refused = storage_error(error, path)
        if refused is None:
            raise
        if needed:
            raise refused from error
        release = lambda: None  # noqa: E731

    @functools.cache
    def free() -> None:
        """Once: a number of a closed file may be another's."""
        release()
        _remove(made)

    INTERRUPTION.before_end(lambda line, status: free())
    try:
        yield
    finally:
        free()


def _taken(path: epath.Path, holder: dict[str, Any], what: str) -> Release:
    if "://" not in str(path):
        lock = _lock(pathlib.Path(path), holder, what)
        if lock is not None:
            return lambda: _unlock(pathlib.Path(path), lock)
    lease = Lease(path, holder)
    if held := lease.take():
        raise ValueError(_in_use(what, held))
    return lease.release


def _lock(path: pathlib.Path, holder: dict[str, Any], what: str) -> int | None:
    """The open file that holds the lock, None where the file system has none."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # one that ends has just removed the folder that it made
            continue
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.read(file, 4096)
            os.close(file)
            if error.errno in _HELD:
                raise ValueError(_in_use(what, _read(text))) from error
            if error.errno in _NO_LOCKS:
                return None
            raise
        # Whoever held it may have removed it since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                try:
                    os.truncate(file, 0)
                    os.write(file, json.dumps(holder).encode())
                except OSError:
                    _unlock(path, file)
                    raise
                return file
        os.close(file)


def _unlock(path: pathlib.Path, file: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        os.close(file)


def _read(text: bytes) -> dict[str, Any]:
    """Who says to hold it; nothing, in the moment before it is written."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _in_use(what: str, held: dict[str, Any]) -> str:
    by = "another process"
    if {"host", "pid", "job", "since"} <= held.keys():
        by = f"{held['job']}, process {held['pid']} on {held['host']}, since {held['since']}"
    return f"{what} is in use by {by}; wait until that ends, end it, or choose another folder"


def _missing(folder: epath.Path) -> list[epath.Path]:
    """The folders that are made with it, the innermost first."""
    made = []
    while "://" not in str(folder) and not folder.exists():
        made.append(folder)
        folder = folder.parent
    return made


def _remove(made: list[epath.Path]) -> None:
    """Those that stayed empty: nothing is left of a command that was refused."""
    with contextlib.suppress(OSError):
        for folder in made:
            os.rmdir(folder)
