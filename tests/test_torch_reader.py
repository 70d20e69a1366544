"""The checkpoints are those of the golden set; expected.json has a hash of every tensor."""

import hashlib
import io
import json
import math
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from lightningdit_jax.torch_pickle import Foreign
from lightningdit_jax.torch_reader import read_torch
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


def _dict(entries: dict[str, bytes]) -> bytes:
    """Opcodes of a dict, given those of its values."""
    return b"}(" + b"".join(_text(key) + value for key, value in entries.items()) + b"u"


def _tensor(size: tuple = (2, 2), stride: tuple = (3, 1), numel: int = 6, offset: int = 1) -> bytes:
    """Opcodes of a tensor within another pickle."""
    whole = _tensor_pickle(numel, offset, size, stride)
    return whole.removeprefix(b"\x80\x02").removesuffix(b".")


def test_foreign_objects_beside_tensors_are_read_inertly(tmp_path):
    """Instances, calls, classes made by calls, and items run nothing and hide no tensor."""
    flag = tmp_path / "ran"
    foreign = {
        "call": b"cio\nopen\n" + _text(str(flag)) + _text("w") + b"\x86R",
        "hyper_parameters": b"comegaconf\nDictConfig\n)\x81}" + _text("x") + b"K\x01sb",
        "states": b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85R(" + _text("k") + b"K\x01u",
        "list": b"cbuiltins\nlist\n)R(K\x01K\x02e",
        "class": b"ccloudpickle\nmake_class\n)R)\x81)\x81}b",
        "method": b"cbuiltins\ngetattr\n)R)R",
    }
    content = _dict({**foreign, "state_dict": _dict({"w": _tensor()})})
    values = np.arange(6, dtype=np.float32).tobytes()
    _archive(tmp_path / "x.pt", b"\x80\x02" + content + b".", values)
    content = read_torch(tmp_path / "x.pt")
    np.testing.assert_array_equal(content["state_dict"]["w"], [[1, 2], [4, 5]])
    assert all(isinstance(content[key], Foreign) for key in foreign)
    assert content["hyper_parameters"].__name__ == "omegaconf.DictConfig"
    assert not flag.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "exec"), ("os.path", "exists")],
)
def test_a_file_that_would_harm_others_is_refused_though_it_does_nothing_here(
    tmp_path, module, name
):
    call = f"c{module}\n{name}\n".encode() + _text(f"touch {tmp_path / 'ran'}") + b"\x85R"
    for entries in ({"model": _tensor(), "x": call}, {"pytorch-lightning_version": call}):
        _archive(tmp_path / "x.pt", b"\x80\x02" + _dict(entries) + b".", bytes(24))
        with pytest.raises(ValueError, match=rf"x\.pt: refused, it refers to {module}\.{name}"):
            read_torch(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_other_classes_alone_is_refused(tmp_path):
    _archive(tmp_path / "x.pt", b"\x80\x02cargparse\nNamespace\n)\x81.", b"")
    with pytest.raises(ValueError, match=r"refers to argparse\.Namespace and holds no tensors"):
        read_torch(tmp_path / "x.pt")
    many = b"".join(b"ca\nb%d\n0" % i for i in range(2000))
    _archive(tmp_path / "x.pt", b"\x80\x02" + many + _tensor() + b".", bytes(24))
    with pytest.raises(ValueError, match="more than 1000 classes"):
        read_torch(tmp_path / "x.pt")


def _typed(dtype: str, size: tuple, count: int, rebuild: bytes = b"_rebuild_tensor_v3") -> bytes:
    """Opcodes of a tensor that torch.save writes for types without a storage of their own."""
    strides = [math.prod(size[i + 1 :]) for i in range(len(size))]
    return (
        b"\x80\x02ctorch._utils\n" + rebuild + b"\n(("
        b"X\x07\x00\x00\x00storagectorch.storage\nUntypedStorage\n"
        + (_text("0") + _text("cpu") + b"I%d\ntQI0\n(" % count)
        + b"".join(b"I%d\n" % n for n in size)
        + b"t("
        + b"".join(b"I%d\n" % n for n in strides)
        + b"t\x89ccollections\nOrderedDict\n)Rctorch\n%s\ntR." % dtype.encode()
    )


def test_float8_has_the_values_of_its_definition(tmp_path):
    """All 256 bit patterns against sign, exponent and mantissa (arXiv 2209.05433, table 1)."""
    bits = np.arange(256)
    for dtype, mantissa_bits, bias in (("float8_e4m3fn", 3, 7), ("float8_e5m2", 2, 15)):
        _archive(tmp_path / "x.pt", _typed(dtype, (16, 16), 256), bytes(range(256)))
        got = read_torch(tmp_path / "x.pt").astype(np.float32).reshape(-1)
        exponent = bits >> mantissa_bits & (1 << 7 - mantissa_bits) - 1
        mantissa = (bits & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
        want = np.where(
            exponent > 0, (1 + mantissa) * 2.0 ** (exponent - bias), mantissa * 2.0 ** (1 - bias)
        )
        want = np.where(bits >> 7, -want, want)
        if dtype == "float8_e5m2":  # has infinities
            want[[0x7C, 0xFC]] = np.inf, -np.inf
            want[[*range(0x7D, 0x80), *range(0xFD, 0x100)]] = np.nan
        else:
            want[[0x7F, 0xFF]] = np.nan
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_unsigned_integers(tmp_path, dtype):
    want = np.array([[0, 1, 2], [3, 250, np.iinfo(dtype).max]], dtype)
    _archive(tmp_path / "x.pt", _typed(dtype, (2, 3), want.nbytes), want.tobytes())
    got = read_torch(tmp_path / "x.pt")
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_tensors_of_types_that_are_not_read_say_which(tmp_path):
    _archive(tmp_path / "x.pt", _typed("complex32", (2,), 8), bytes(8))
    assert read_torch(tmp_path / "x.pt").__name__ == "torch.complex32 tensor"
    quantized = _typed("qint8", (2,), 2, b"_rebuild_qtensor")
    _archive(tmp_path / "x.pt", quantized, bytes(2))
    assert read_torch(tmp_path / "x.pt").__name__ == "torch._utils._rebuild_qtensor"


@pytest.mark.parametrize("kind", ["torch\nTensor", "torch.nn.parameter\nParameter", "my\nTensor"])
def test_tensors_with_attributes_are_read_and_those_of_other_classes_named(tmp_path, kind):
    """_rebuild_from_type_v2(function, class, its arguments, attributes), as torch.save writes."""
    function, arguments = _tensor().removesuffix(b"R").split(b"\n_rebuild_tensor_v2\n")
    record = b"ctorch._tensor\n_rebuild_from_type_v2\n(" + function + b"\n_rebuild_tensor_v2\n"
    record += b"c%s\n" % kind.encode() + arguments + _dict({"no_weight_decay": b"\x88"}) + b"tR"
    _archive(tmp_path / "x.pt", b"\x80\x02" + record + b".", np.arange(6, dtype="<f4").tobytes())
    got = read_torch(tmp_path / "x.pt")
    if kind == "my\nTensor":
        assert isinstance(got, Foreign) and got.__name__ == "my.Tensor"
    else:
        np.testing.assert_array_equal(got, [[1, 2], [4, 5]])


def test_memory_is_bounded_by_the_file(tmp_path):
    """Views may repeat a storage, and archives be compressed, but not without a bound."""
    values = np.arange(6, dtype=np.float32).tobytes()
    _archive(tmp_path / "x.pt", b"\x80\x02" + _tensor((1000, 2), (0, 1)) + b".", values)
    assert read_torch(tmp_path / "x.pt").sum() == 3000
    _archive(tmp_path / "x.pt", b"\x80\x02" + _tensor((2**40, 2), (0, 1)) + b".", values)
    name = read_torch(tmp_path / "x.pt").__name__
    assert name == "torch tensor of size (1099511627776, 2) that repeats 6 elements"
    for memo in (b"r\xff\xff\xff\x7f", b"p2147483647\n"):
        _archive(tmp_path / "x.pt", b"\x80\x02}" + memo + b".", b"")
        with pytest.raises(ValueError, match="memorizes an object as 2147483647"):
            read_torch(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", _tensor_pickle(2**20, 0, (2**20,), (1,)))
        archive.writestr("x/data/0", bytes(2**22))
    with pytest.raises(ValueError, match="claim more than 16 times the size of the file"):
        read_torch(tmp_path / "x.pt")


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
