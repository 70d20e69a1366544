"""Memory of the host that the allocator keeps after it was freed. Imports nothing of ours."""

import ctypes
import functools
from collections.abc import Callable


def release_freed_memory() -> None:
    """Gives what is free within glibc's heaps back to the system; nothing with another allocator.

    Every thread that writes a checkpoint frees into a heap of its own, which glibc keeps, so a
    long run would come to hold ever more that is in no use; compiling leaves hundreds of MiB.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # musl, macOS
        return None
