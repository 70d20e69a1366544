"""Digests of arrays: what they are, the same wherever arrays lie, and what they notice."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lightningdit_jax import array_digest
from lightningdit_jax.array_digest import ArrayDigest, differing, tree_digests
from lightningdit_jax.parallel.mesh import make_mesh

TYPES = ("float32", "bfloat16", "float8_e4m3fn", "int32", "int8", "uint16", "bool")


def by_hand(array):
    """The two sums, element by element in Python's integers, as the file says in words."""
    data = np.ascontiguousarray(array).tobytes()
    width = min(array.dtype.itemsize, 4)
    sums = [0, 0]
    for index, start in enumerate(range(0, len(data), width)):
        first = int.from_bytes(data[start : start + width], "little")
        first ^= index * 0x9E3779B1 % 2**32
        first = (first ^ first >> 16) * 0x85EBCA6B % 2**32
        first = (first ^ first >> 13) * 0xC2B2AE35 % 2**32
        second = (first ^ first >> 16) * 0x27D4EB2F % 2**32
        sums = [(sums[0] + first) % 2**32, (sums[1] + (second ^ second >> 15)) % 2**32]
    return tuple(sums)


def array_of(dtype, shape, seed=0):
    numbers = np.random.default_rng(seed).integers(0, 100, shape)
    return numbers.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))


@pytest.mark.parametrize("dtype", [*TYPES, "float64", "int64"])
def test_the_sums_are_those_made_by_hand(dtype):
    for shape in ((), (0,), (7,), (3, 1, 5)):
        array = array_of(dtype, shape)
        digest = tree_digests({"a": array})["a"]
        assert digest == ArrayDigest(dtype, shape, array.size, by_hand(array))
        assert ArrayDigest.from_json(digest.to_json()) == digest


@pytest.mark.parametrize("dtype", TYPES)
def test_compiled_sums_are_the_same(dtype, monkeypatch):
    array = array_of(dtype, (4, 3, 5))
    wanted = tree_digests({"a": array})
    monkeypatch.setattr(array_digest, "_SMALL", 0)
    assert tree_digests({"a": jnp.asarray(array)}) == wanted


@pytest.mark.parametrize("compiled", [False, True])
def test_any_mesh_and_any_pieces_have_the_same_digest(compiled, monkeypatch):
    array = array_of("float32", (8, 4, 6))
    wanted = tree_digests({"a": array})
    monkeypatch.setattr(array_digest, "_SMALL", 0 if compiled else 2**20)
    mesh = make_mesh(2, 2, 2)
    for spec in ((), ("data",), (None, "tensor"), (("data", "fsdp"), None, "tensor")):
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert tree_digests({"a": placed}) == wanted
    monkeypatch.setattr(array_digest, "_PIECE", 200)  # 2 rows of 96 bytes
    assert tree_digests({"a": array}) == wanted
    monkeypatch.setattr(array_digest, "_PIECE", 1)
    assert tree_digests({"a": array}) == wanted


def test_parts_add_up_and_no_others():
    array = array_of("float32", (6, 2))
    whole = tree_digests({"a": array})["a"]
    cut = (((0, 0), array[:4]), ((4, 0), array[4:]))
    sums = [array_digest._sums(part, at, (6, 2)) for at, part in cut]
    parts = [ArrayDigest("float32", (6, 2), n, pair) for n, pair in zip((8, 4), sums)]
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    with pytest.raises(ValueError, match="are not of one array"):
        whole + tree_digests({"a": array[:4]})["a"]


def test_random_keys():
    keys, others = ({"k": jax.random.split(jax.random.key(seed), 3)} for seed in (0, 1))
    assert tree_digests(keys) != tree_digests(others)
    assert tree_digests(keys)["k"].shape == (3, 2)


@pytest.mark.parametrize("dtype", TYPES)
def test_each_flipped_bit_is_noticed(dtype):
    array = array_of(dtype, (3, 5))
    wanted = tree_digests({"a": array})
    noticed = 0
    for bit in range(8 * array.nbytes):
        data = bytearray(array.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        flipped = np.frombuffer(bytes(data), array.dtype).reshape(array.shape)
        noticed += tree_digests({"a": flipped}) != wanted
    assert noticed == 8 * array.nbytes


def test_swapped_elements_rows_and_signs_are_noticed():
    """Every pair of elements, of rows, and every pair of signs turned: sums alone miss these."""
    array = np.zeros((16, 16), np.float32)
    np.fill_diagonal(array, 1.0)  # rows with the same sum
    array[0] = np.arange(16)
    wanted, changed, noticed = tree_digests({"a": array}), 0, 0
    for i, j in itertools.combinations(range(16), 2):
        columns, rows, signs = array.copy(), array.copy(), array.copy()
        columns[0, [i, j]] = array[0, [j, i]]
        rows[[i, j]] = array[[j, i]]
        signs[0, [i, j]] *= -1
        for other in (columns, rows, signs):
            changed += other.tobytes() != array.tobytes()
            noticed += tree_digests({"a": other}) != wanted
    assert noticed == changed == 3 * 120


def test_what_differs_is_named():
    tree = {"a": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "c": np.ones(2, np.int32)}
    saved = tree_digests(tree)
    assert differing(saved, saved) == {}
    swapped = tree_digests({**tree, "a": tree["b"], "b": tree["a"]})
    assert differing(swapped, saved).keys() == {"a", "b"}
    found = {"b": saved["b"], "c": tree_digests({"c": np.ones(3, np.int32)})["c"], "d": saved["a"]}
    assert differing(found, saved) == {
        "a": "is missing",
        "c": "is int32 [3], but int32 [2] was saved",
        "d": "has no digest",
    }
