"""The checkpoints are those of the golden set; expected.json has a hash of every tensor."""

import hashlib
import io
import json
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from lightningdit_jax.torch_reader import Foreign, read_torch
from tests.golden import GOLDEN, load

CHECKPOINTS = GOLDEN / "checkpoints"
EXPECTED = json.loads((CHECKPOINTS / "expected.json").read_text())


def assert_matches(tensors: dict, expected: dict) -> None:
    assert list(tensors) == list(expected)
    for name, want in expected.items():
        got = tensors[name]
        assert list(got.shape) == want["shape"], name
        assert got.dtype.name == want["dtype"], name
        content = np.ascontiguousarray(got).tobytes()
        assert hashlib.sha256(content).hexdigest() == want["sha256"], name


def test_all_dtypes_views_and_plain_values():
    content = read_torch(CHECKPOINTS / "dtypes_and_views.pt")
    assert_matches(content["state_dict"], EXPECTED["dtypes_and_views.pt"]["state_dict"])
    assert (content["epoch"], content["name"]) == (3, "x")
    assert content["nested"] == {"lr": 1e-4, "betas": (0.5, 0.9), "flag": None}


def test_views_share_their_storage():
    tensors = read_torch(CHECKPOINTS / "dtypes_and_views.pt")["state_dict"]
    assert np.shares_memory(tensors["view_strided"], tensors["shared"])
    assert not np.shares_memory(tensors["shared"], tensors["param"])
    np.testing.assert_array_equal(tensors["view_t"], tensors["shared"].T)


@pytest.mark.parametrize("name", ["lazy_bits", "lazy_bits_legacy"])
def test_lazily_negated_and_conjugated_tensors_have_their_values(name):
    """Of torch 2.14.1: X is torch._neg_view or .conj() of a tensor, X_plain its resolve_*()."""
    content = read_torch(GOLDEN.parent / f"{name}.pt")
    for key in ("neg", "conj", "both", "half"):
        np.testing.assert_array_equal(content[key], content[f"{key}_plain"])
        assert content[key].any() and not content[key].flags.writeable


def test_tensors_are_mapped_not_loaded(tmp_path):
    path = tmp_path / "x.pt"
    _archive(path, _tensor_pickle(6, 0, (6,), (1,)), np.full(6, 1.5, np.float32).tobytes())
    tensor = read_torch(path)
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(np.full(6, 1.5, np.float32).tobytes()))
        file.write(np.full(6, 2.5, np.float32).tobytes())
    np.testing.assert_array_equal(tensor, np.full(6, 2.5))


@pytest.mark.parametrize("name", ["dtypes_and_views.pt", "legacy_format.pt"])
def test_tensors_are_read_only(name):
    for tensor in next(iter(read_torch(CHECKPOINTS / name).values())).values():
        assert not tensor.flags.writeable or tensor.size == 0


def test_compressed_archive_reads_the_same(tmp_path):
    with (
        zipfile.ZipFile(CHECKPOINTS / "dtypes_and_views.pt") as stored,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    content = read_torch(tmp_path / "a.pt")
    assert_matches(content["state_dict"], EXPECTED["dtypes_and_views.pt"]["state_dict"])


def test_legacy_format():
    content = read_torch(CHECKPOINTS / "legacy_format.pt")
    assert_matches(content["ema"], EXPECTED["release_full.pt"]["ema"])


def test_latents_stats():
    stats, golden = read_torch(GOLDEN / "latents" / "latents_stats.pt"), load("latents_dataset")
    np.testing.assert_array_equal(stats["mean"], golden["out.mean"])
    np.testing.assert_array_equal(stats["std"], golden["out.std"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unsafe_getenv.pt", "os.getenv"),
        ("unsafe_eval.pt", "eval"),
        ("unsafe_plain_pickle.pt", "os.getenv"),
        ("truncated.pt", "truncated"),
        ("empty.pt", "empty"),
    ],
)
def test_refused_files_are_named_with_the_reason(name, reason):
    already = "torch" in sys.modules
    with pytest.raises(ValueError, match=rf"{name}.*{reason}"):
        read_torch(CHECKPOINTS / name)
    assert "GOLDEN_FIXTURE_CANARY" not in os.environ
    assert ("torch" in sys.modules) == already  # other tests' libraries may have imported it


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        read_torch(tmp_path / "absent.pt")


@pytest.mark.parametrize("name", ["legacy_format.pt", "dtypes_and_views.pt"])
def test_every_truncation_is_an_error(tmp_path, name):
    whole = (CHECKPOINTS / name).read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40).astype(int):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pt"):
            read_torch(tmp_path / "cut.pt")


class _Call:
    """Pickles as a call of `function`, as a hostile file would."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, np.frombuffer])
def test_calls_are_refused_wherever_they_stand(tmp_path, function):
    content = {"a": [({"b": _Call(function, "1")},)]}
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"bad\.pt: refused, it refers to .*\."):
        read_torch(tmp_path / "bad.pt")


def _archive(path, pickled: bytes, storage: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", storage)


def _tensor_pickle(numel: int, offset: int, size: tuple, stride: tuple) -> bytes:
    """Opcodes of one float32 tensor on storage 0."""
    stream = io.BytesIO()
    stream.write(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage")
    stream.write(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu")
    stream.write(b"I%d\ntQ" % numel + b"I%d\n(" % offset)
    stream.write(b"".join(b"I%d\n" % n for n in size) + b"t(")
    stream.write(b"".join(b"I%d\n" % n for n in stride) + b"t\x89}tR.")
    return stream.getvalue()


def test_hand_written_tensor_record(tmp_path):
    values = np.arange(6, dtype=np.float32)
    _archive(tmp_path / "x.pt", _tensor_pickle(6, 1, (2, 2), (3, 1)), values.tobytes())
    np.testing.assert_array_equal(read_torch(tmp_path / "x.pt"), [[1, 2], [4, 5]])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"}" + b"X\x05\x00\x00\x00scale" + b"K\x02s", r"carries {'scale': 2}.*'neg' and 'conj'"),
        (b"}" + b"X\x03\x00\x00\x00neg" + b"K\x02s", r"carries {'neg': 2}"),
        (b"K\x07", "carries 7"),
        (b"NN", "positional arguments"),
    ],
)
def test_what_a_tensor_record_says_beside_its_values_is_understood_or_refused(
    tmp_path, metadata, message
):
    record = _tensor_pickle(6, 0, (6,), (1,)).removesuffix(b"\x89}tR.")
    _archive(tmp_path / "x.pt", record + b"\x89}" + metadata + b"tR.", bytes(24))
    with pytest.raises(ValueError, match=rf"x\.pt.*{message}"):
        read_torch(tmp_path / "x.pt")


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def test_foreign_objects_of_a_lightning_checkpoint_are_read_inertly(tmp_path):
    """Instances, calls and items of unknown classes run nothing and hide no tensor."""
    flag = tmp_path / "ran"
    foreign = {
        "callbacks": b"cposix\nsystem\n" + _text(f"touch {flag}") + b"\x85R",
        "hyper_parameters": b"comegaconf\nDictConfig\n)\x81}" + _text("x") + b"K\x01sb",
        "states": b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85R(" + _text("k") + b"K\x01u",
        "list": b"cbuiltins\nlist\n)R(K\x01K\x02e",
    }
    tensor = _tensor_pickle(6, 1, (2, 2), (3, 1)).removeprefix(b"\x80\x02").removesuffix(b".")
    entries = {**foreign, "state_dict": b"}" + _text("w") + tensor + b"s"}
    body = b"".join(_text(key) + value for key, value in entries.items())
    plain, version = b"\x80\x02}(" + body, _text("pytorch-lightning_version") + _text("2.4.0")

    values = np.arange(6, dtype=np.float32).tobytes()
    _archive(tmp_path / "lightning.ckpt", plain + version + b"u.", values)
    content = read_torch(tmp_path / "lightning.ckpt")
    np.testing.assert_array_equal(content["state_dict"]["w"], [[1, 2], [4, 5]])
    assert all(isinstance(content[key], Foreign) for key in foreign)

    _archive(tmp_path / "other.pt", plain + b"u.", values)
    with pytest.raises(ValueError, match=r"posix\.system, omegaconf\.DictConfig, .*defaultdict"):
        read_torch(tmp_path / "other.pt")
    assert not flag.exists()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ((6, 1, (2, 2), (4, 1)), "exceeds its storage"),
        ((6, -1, (2,), (1,)), "offset -1"),
        ((6, 5, (2,), (-1,)), "stride"),
        ((7, 0, (2,), (1,)), "has 24 bytes, expected 28"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, record, reason):
    _archive(tmp_path / "x.pt", _tensor_pickle(*record), bytes(24))
    with pytest.raises(ValueError, match=reason):
        read_torch(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "target", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"]
)
def test_setting_attributes_of_what_is_allowed_is_an_error(tmp_path, target):
    """The BUILD opcode sets attributes on any object, even on a function or a class."""
    state = b"(N}X\x08\x00\x00\x00__call__Nst"  # (None, {"__call__": None})
    _archive(tmp_path / "x.pt", b"\x80\x02" + target + state + b"b.", b"")
    with pytest.raises(ValueError, match=r"x\.pt"):
        read_torch(tmp_path / "x.pt")
