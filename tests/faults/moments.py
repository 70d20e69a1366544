"""What happens in the process of a command at a moment: at its so manieth change of files.

An audit hook sees each opening for writing, renaming, making and removing before it is done, in
whatever thread. What TensorStore writes by itself passes unseen, in between.
"""

import ctypes
import fcntl
import itertools
import os
import resource
import signal
import time

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MS_RDONLY, _MS_REMOUNT = 1, 32


def at_change(under, number, action, value=None):
    """Calls an action of this module at change `number`, from 1, of what lies under a folder.

    An action that returns False is tried again at the next. A file that the action writes is not
    among what it is called at.
    """
    watch(under, itertools.count(1).__next__, number, lambda: globals()[action](value))


def watch(under, count, number, act):
    import sys

    state = {"done": False}

    def hook(event, arguments):
        if state["done"] or not is_change(event, arguments, under):
            return
        if count() >= number:
            state["done"] = True
            if act() is False:
                state["done"] = False

    sys.addaudithook(hook)


def is_change(event, arguments, under):
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & _WRITES:
            return False
    elif event not in _CHANGES:
        return False
    path = arguments[0]
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(under)


def counted(under, into):
    """Has the number of changes written to a file, again and again."""
    import sys

    file = os.open(into, os.O_WRONLY | os.O_CREAT, 0o666)
    numbers = itertools.count(1)

    def hook(event, arguments):
        if is_change(event, arguments, under):
            os.pwrite(file, b"%d" % next(numbers), 0)

    sys.addaudithook(hook)


def kill(number):
    os.kill(os.getpid(), signal.Signals[number])


def fill(where):
    """Fills the file system of a folder up to so many bytes: [folder, bytes that stay free]."""
    folder, free = where
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - free
    if size > 0:
        file = os.open(f"{folder}/fill", os.O_WRONLY | os.O_CREAT, 0o666)
        os.posix_fallocate(file, 0, size)
        os.close(file)


def read_only(folder):
    """Remounts it; a file that is open for writing is in the way."""
    mount = ctypes.CDLL(None, use_errno=True).mount
    flags = _MS_REMOUNT | _MS_RDONLY
    return mount(b"tmpfs", folder.encode(), b"tmpfs", ctypes.c_ulong(flags), None) == 0


def vanish(folder):
    if not os.path.exists(folder):
        return False
    os.rename(folder, f"{folder}.gone")
    return True


def limit(what):
    """[RLIMIT_..., number]; of open files, so many more or fewer than there are."""
    name, value = what
    if name == "RLIMIT_NOFILE":
        value += len(os.listdir("/proc/self/fd"))
    number = getattr(resource, name)
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def jump(seconds):
    """Sets the wall clock by so many seconds, for this process."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def without_locks(times, later=0.0):
    """A file system without locks, so that a lease is taken, with quicker times; and a clock."""
    from lightningdit_jax.lease import Lease

    def refuse(*arguments):
        raise OSError(37, os.strerror(37))

    fcntl.lockf = refuse
    Lease.__init__.__kwdefaults__.update(times)
    if later:
        jump(later)
