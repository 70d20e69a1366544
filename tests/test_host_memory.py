"""What is freed goes back to the system, and saving leaves as little behind as it can."""

import ctypes
import os
import pathlib
import threading

import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from lightningdit_jax import checkpoint_writing
from lightningdit_jax.host_memory import release_freed_memory

BLOCKS, SIZE = 100_000, 1000


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc's allocator")
def test_what_a_thread_freed_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    last = []

    def take_and_free():
        blocks = [libc.malloc(SIZE) for _ in range(BLOCKS)]
        for block in blocks:
            ctypes.memset(block, 1, SIZE)
        last.append(blocks.pop())  # in use, at the end of the heap, which holds the rest of it
        for block in blocks:
            libc.free(block)

    thread = threading.Thread(target=take_and_free)
    thread.start()
    thread.join()
    before = resident()
    release_freed_memory()
    assert before - resident() > BLOCKS * SIZE / 2
    libc.free(last[0])


def test_tensorstore_is_asked_once_a_folder_and_its_answer_is_orbax_s():
    asked = []
    original = tensorstore_utils._build_ocdbt_kvstore_tspec.__wrapped__

    def build(*arguments, **options):
        asked.append(arguments)
        return original(*arguments, **options)

    built = checkpoint_writing._asked_once_a_folder(build)
    mode = next(iter(tensorstore_utils.OcdbtWriteMode))
    options = tensorstore_utils.OcdbtKvStoreWriteOptions(mode, target_data_file_size=2**20)
    for folder in ("/a/1", "/a/2"):
        for name in (None, "params.blocks.kernel", "params.bias"):
            for more in ({}, {"process_spec": 0}, {"write_options": options}):
                want = original(folder, name, **more)
                assert built(folder, name, **more) == want
                built(folder, name, **more).clear()  # the caller's own
                assert built(directory=folder, name=name, **more) == want
    by_name = len(asked)
    for name in "abcdef":
        built("/a/3", name, process_spec=0)
    assert len(asked) == by_name + 1
