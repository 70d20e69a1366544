"""What a file system or a store refused, as a line that names the path, the cause and what to do.

Imports nothing of ours but how stores say it.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from etils import epath

from lightningdit_jax.object_stores import refusal_of_store

EXIT_STATUS = 74  # EX_IOERR of sysexits.h

_ROOM = "make room"
_MOUNT = "mount it again, or repair it"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n 65536)",
    errno.ENFILE: "raise the system's limit on open files (sysctl fs.file-max)",
    errno.EROFS: "mount it writable, or choose another folder",
    errno.EACCES: "get the permission, or choose another folder",
    errno.EPERM: "get the permission, or choose another folder",
    errno.ENOENT: "see whether its folder, or the mount, is still there",
    errno.ENOTDIR: "see what stands in the folder's place",
    errno.EISDIR: "see what stands in the file's place",
    errno.EIO: "look at the disk (dmesg)",
    errno.ESTALE: _MOUNT,
    errno.ENOTCONN: _MOUNT,
    errno.ENODEV: _MOUNT,
    errno.ENXIO: _MOUNT,
}
# Those that libraries tell in words only, and that mean nothing else.
_IN_WORDS = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
    )
}
# TensorStore, which Orbax writes with, and safetensors.
_CODE = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)")
_PATH = re.compile(r"""["']((?:/|\w+://)[^"']+)["']""")


class StorageError(OSError):
    """The storage refused something; the message is one line. Ends the program with EXIT_STATUS.

    Whatever was complete before still is.
    """


@contextlib.contextmanager
def storing(path: object) -> Iterator[None]:
    """Within it, what the storage refuses becomes StorageError; path: as in storage_error."""
    try:
        yield
    except Exception as error:
        refused = storage_error(error, path)
        if refused is None:
            raise
        raise refused from error


def check_absent(path: epath.PathLike) -> None:
    """Raises StorageError where what exists() does not see may be there, and is not shown.

    For want of a permission, by a store that refuses: exists() takes that for absence.
    """
    with storing(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        next(iter(epath.Path(path).iterdir()), None)


def storage_error(
    error: BaseException, path: object = "", otherwise: str = "a file"
) -> StorageError | None:
    """What an exception, or what caused it, says of the storage; None where it says nothing.

    path: what was to be written, where the exception has no file of its own. otherwise: stands for
    that where its words name none either, as where a limit keeps a pipe from being opened.
    """
    for link in _chain(error):
        if isinstance(link, StorageError):
            return link
        number = _number(link)
        if number is not None:
            where = getattr(link, "filename", None) or path or _path_in(link) or otherwise
            cause = f"{os.strerror(number)} ({errno.errorcode[number]})"
            return StorageError(f"{where}: {cause}; {_ADVICE[number]}")
        if refused := refusal_of_store(link):
            return StorageError(f"{path or _path_in(link) or otherwise}: {'; '.join(refused)}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _number(error: BaseException) -> int | None:
    """The error number of an exception, or in its words; None where it has none of ours."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _ADVICE else None
    text = str(error)
    if (code := _CODE.search(text)) and int(code[1] or code[2]) in _ADVICE:
        return int(code[1] or code[2])
    return next((number for words, number in _IN_WORDS.items() if words in text), None)


def _path_in(error: BaseException) -> str:
    found = _PATH.search(str(error))
    return found[1] if found else ""
