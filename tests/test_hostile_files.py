"""The smallest inputs of what the fuzz found: each ended in a traceback, much memory or no end."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
import yaml
from etils import epath
from PIL import Image

from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.workdir import read_config
from lightningdit_jax.configs import base
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.data.images import UnreadableImageError, decode_rgb
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.data.sample_parts import find_parts
from lightningdit_jax.data.shard_header import read_header
from lightningdit_jax.metrics_log import read_log
from lightningdit_jax.npz_reader import read_npz
from lightningdit_jax.release_config.reading import import_yaml
from lightningdit_jax.torch_reader import read_torch
from tests.fuzz import checkpoint_kinds, config_kinds
from tests.fuzz.harness import Input, run
from tests.fuzz.npz_kinds import archive, npy, raw_npy
from tests.fuzz.pickles import Writer, text
from tests.fuzz.torch_kinds import zip_file

SHARED = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times over
VALUES = np.arange(6, dtype="<f4")


def torch_file(path, value, ending=b"."):
    """A file of a value, and opcodes in place of the last one."""
    writer = Writer()
    pickled = writer.pickle(value).removesuffix(b".") + ending
    path.write_bytes(zip_file(pickled, writer.storages))
    return path


def tensor_file(path, **changes):
    """A file of a state dict whose one tensor has other fields."""
    writer = Writer()
    tensor = writer.tensor(VALUES, **changes)
    path.write_bytes(zip_file(b"\x80\x02}" + text("w") + tensor + b"s.", writer.storages))
    return path


def test_an_ordered_dict_of_a_file_has_items_and_no_attributes(tmp_path):
    """The opcode BUILD sets attributes: `items` would be what the file says."""
    state = b"ccollections\nOrderedDict\n)R" + text("w") + Writer().tensor(VALUES) + b"s"
    state += b"}" + text("items") + b"K\x07sb."
    (tmp_path / "x.pt").write_bytes(zip_file(b"\x80\x02" + state, [VALUES.tobytes()]))
    assert [name for name, _ in read_torch(tmp_path / "x.pt").items()] == ["w"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"more": b"}" + text("neg") + b")" + b"2\x86" * 12 + b"s"},
            r"carries {'neg': \(\(\.\.\.\), \(\.\.\.\)\)}",
        ),
        ({"key": "a\nb"}, r"a storage is called 'a\\nb'"),
        ({"key": (1, 2)}, r"a storage is called \(1, 2\)"),
        ({"kind": "NoStorage"}, "storage '0' has type 'NoStorage'"),
        ({"size": (2**40,) * 3, "strides": (0, 0, 1)}, "size \\(1099511627776, "),
    ],
)
def test_tensor_records(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"x\.pt: .*{message}") as raised:
        read_torch(tensor_file(tmp_path / "x.pt", **changes))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 400


@pytest.mark.parametrize("name", ["a\nb", "x" * 300, "\x1b[2J"])
def test_names_of_classes_stay_in_their_line(tmp_path, name):
    opcodes = text("y") + text("os") + text(name) + b"\x93s."
    with pytest.raises(ValueError, match=r"x\.pt: refused, it refers to 'os\.") as raised:
        read_torch(torch_file(tmp_path / "x.pt", {"w": VALUES}, opcodes))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_of_other_methods(tmp_path, method):
    """A header of LZMA asks for up to 4 GB."""
    writer = Writer()
    pickled = writer.pickle({"w": VALUES})
    (tmp_path / "x.pt").write_bytes(zip_file(pickled, writer.storages, method=method))
    (tmp_path / "x.npz").write_bytes(archive({"w": npy(VALUES)}, method))
    with pytest.raises(ValueError, match=r"x\.pt: an entry is compressed by another method"):
        read_torch(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.npz is damaged \('w' is compressed by another"):
        read_npz(tmp_path / "x.npz", ["w"])


@pytest.mark.parametrize(
    ("header", "message"),
    [("-" * 9000 + "1", "nested too deep|recursion"), ("{'descr': 1}", "keys"), ("", ".")],
)
def test_headers_of_arrays(tmp_path, header, message):
    (tmp_path / "x.npz").write_bytes(archive({"w": raw_npy(header.encode(), b"")}))
    with pytest.raises(ValueError, match=rf"x\.npz is damaged \(.*({message})"):
        read_npz(tmp_path / "x.npz", ["w"])


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(True, 6)", "(2, 2)"])
def test_parts_of_samples_that_claim_other_sizes(tmp_path, shape):
    """NumPy asks for the memory before it looks whether so much is there."""
    (tmp_path / "00000000_6.npy").write_bytes(npy(VALUES, shape=shape))
    with pytest.raises(ValueError, match=r"00000000_6\.npy is damaged \('00000000_6\.npy' claims"):
        find_parts(epath.Path(tmp_path))[0].read(verify=True)


def png(width, height, data=b""):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_images_that_claim_many_pixels(tmp_path):
    """Half a gigabyte by 60 bytes; what is large and nothing but white is read."""
    path = tmp_path / "x.png"
    path.write_bytes(png(13_000, 13_000))
    with pytest.raises(UnreadableImageError, match=r"x\.png .*13000 x 13000 pixels are claimed"):
        decode_rgb(str(path), str(path))
    with pytest.raises(UnreadableImageError, match="13000 x 13000"):
        decode_rgb(io.BytesIO(path.read_bytes()), "x.png")
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        Image.new("RGB", (2500, 2500), "white").save(path, kind)
        assert decode_rgb(str(path), str(path)).size == (2500, 2500)


def test_headers_of_shards(tmp_path):
    path = tmp_path / "x.safetensors"
    content = safetensors.numpy.save({"w": VALUES})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    whole = json.dumps(header)[1:-1]
    for text_, message in (
        (f"{{{whole}, {whole}}}", "'?w'? is there twice|names w is there twice"),
        (f'{{{whole}, "__metadata__": {{"x": 1}}}}', "its metadata are no texts"),
        (f'{{{whole}, "__metadata__": []}}', "AttributeError"),
    ):
        path.write_bytes(struct.pack("<Q", len(text_)) + text_.encode() + content[8 + length :])
        with pytest.raises(ValueError, match=rf"x\.safetensors has a damaged .*({message})"):
            read_header(path)


def test_statistics_of_other_types(tmp_path):
    """safetensors' own reader ends in KeyError; the tuple would be an array of 2^60."""
    header = json.dumps({n: {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [3 * i, 3 * i + 3]}
                         for i, n in enumerate(("mean", "std"))})  # fmt: skip
    path = tmp_path / "latents_stats.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(6))
    with pytest.raises(ValueError, match=r"latents_stats\.safetensors is damaged, or of a type"):
        load_stats(tmp_path)
    path.unlink()
    torch_file(tmp_path / "latents_stats.pt", {"mean": VALUES}, text("std") + SHARED + b"s.")
    with pytest.raises(ValueError, match=r"latents_stats\.pt lacks 'mean' or 'std'"):
        load_stats(tmp_path)


def test_lines_of_a_log_that_only_seem_to_be_records(tmp_path):
    """Of a step without end, one that Python's json reads of bytes alone, a step that is a text."""
    lines = [b'{"step": Infinity}', b'\xef\xbb\xbf{"step": 2}', b'{"step": "3"}', b'{"step": 4}']
    (tmp_path / "x").write_bytes(b"\n".join(lines))
    assert read_log(epath.Path(tmp_path / "x")) == ([(4, '{"step": 4}')], [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"w": "x.bin"}, "metadata": 7}, "its 'metadata' is 7; expected dict"),
        ({"weight_map": {"w": 7}}, "refers to 7; expected files beside it"),
        ({"weight_map": {"w": "a\nb"}}, r"refers to 'a\\nb'; expected files beside it"),
        ({"weight_map": {"w": "x.bin", "a\nb": "x.bin"}}, r"missing: a\\nb, which"),
    ],
)
def test_indices_of_shards(tmp_path, content, message):
    torch_file(tmp_path / "x.bin", {"w": VALUES})
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_source(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["a", 7]}, "'class_names' is 7; expected str"),
        ({"class_names": "ab"}, "'class_names' is 'ab'; expected a list"),
        ({"history": [{"key": "seed"}]}, "'history' is .* and lacks step"),
        ({"source": {"kind": "x"}}, "'source' is .* and lacks converted, files"),
        ({"step": True}, "'step' is True; expected int"),
        ({"flow": 7}, "'flow' is 7; expected dict"),
        ({"flow": {"path": 7}}, "unknown path '7'"),
        ({"latents": {"mean": [10**400], "std": [1.0]}}, "a checkpoint's latents are not"),
        ({"flow": {"course": 7}}, "a checkpoint's flow .*unexpected keyword"),
        ({"latents": {"mean": [{}], "std": [1.0]}}, "a checkpoint's latents are not"),
        ({"architecture": {"depth": "x"}}, "no architecture of a lightningdit: depth is 'x'"),
    ],
)
def test_meta_of_a_checkpoint_without_digests(tmp_path, change, message):
    (tmp_path / "meta").mkdir()
    content = json.dumps({**checkpoint_kinds.meta(), **change})
    (tmp_path / "meta" / "metadata").write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        model_meta(epath.Path(tmp_path))
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a: &a {b: *a}", "sections lie more than 20 deep in each other"),
        ("x: 2001-99-99", "cannot be read as yaml: month must be in"),
        ("x: !!float x", "cannot be read as yaml: could not convert"),
        (f"x: {'9' * 5000}", "cannot be read as yaml: Exceeds the limit"),
        ('"a\\nb": 7', r"a\\nb: the release has no such key"),
        ("'a\x1fb': 7", "cannot be read as yaml: unacceptable character"),
        (f"x: {10**400}", "x"),
    ],
)
def test_yaml_files(tmp_path, lines, message):
    """Beside sections of the release; a number, below, in place of one of its own."""
    whole = (config_kinds.YAML / "lightningdit_xl_vavae_f16d32.yaml").read_text()
    (tmp_path / "x.yaml").write_text(f"{lines}\n{whole}")
    with pytest.raises(ValueError, match=rf"x\.yaml.* .*{message}") as raised:
        import_yaml(str(tmp_path / "x.yaml"))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


def test_values_of_a_yaml_that_are_no_float_and_no_word(tmp_path):
    values = yaml.safe_load((config_kinds.YAML / "lightningdit_xl_vavae_f16d32.yaml").read_text())
    values["optimizer"]["lr"], values["transport"]["path_type"] = 10**400, ["Linear"]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        ValueError, match=r"x\.yaml .*optimizer\.lr: expected a number.*path_type: expected one of"
    ):
        import_yaml(str(tmp_path / "x.yaml"))


HEAD = "from lightningdit_jax.configs import base\ndef get_config():\n    c = base.get_config()\n"
# Lines of a config file, and what main.py says.
FILES = {
    "return None": "get_config() returns a NoneType; expected a ConfigDict",
    "return 7": "get_config() returns a int",
    "return c.trian": "mine.py, line 4: AttributeError: 'trian' Did you mean \"train\"",
    "c.sede = 1; return c": 'mine.py, line 4: AttributeError: Key "sede" does not exist',
    "del c.seed": "mine.py, line 4: AttributeError: This ConfigDict is locked",
    "raise ValueError('two\\nlines')": "two\\nlines",
    "return c.unclosed(": "mine.py, line 4: SyntaxError: '(' was never closed",
    "import no_such_module": "mine.py, line 4: ModuleNotFoundError: No module named",
    "c.unlock(); c.train = 3; return c": "Could not override field 'train'",
    "c.seed = 10**400; return c": "config.seed is 1000",
    "c.optimizer.learning_rate = 10**400; return c": "mine.py: int too large to convert to float",
}
COMMANDS = {
    "--config.seed=" + "1" * 400: "config.seed is 1111",
    "--config.model.depth=9223372036854775808": "expected at least 1, below 2^63",
    "--config.kind=a\nb": "unknown value of config.kind 'a\\nb'",
    "--config.train.batch_size=\x1b[2J": "flag --config.train.batch_size=\\x1b[2J: invalid",
    "-- --config.sample.time_war=1": "unexpected arguments: --config.sample.time_war=1",
    "--config=a\x00b": "there is no such file",
}


def test_what_main_says_of_config_files_and_commands():
    """A child each, as the fuzz does it; "refused" is a line of our own that can be printed."""
    of_file = config_kinds.KINDS[1]
    given = [
        Input({"mine.py": f"{HEAD}    {line}\n".encode()}, ["--config=mine.py", "--workdir=w"])
        for line in FILES
    ]
    shipped = f"--config={config_kinds.ROOT}/configs/dit_xl.py"
    for command in COMMANDS:
        rest = command.split(" ") if command.startswith("-- ") else [command]
        given.append(Input({}, [shipped, "--workdir=w", *rest]))
    results = run(of_file, dict(enumerate(given)))
    for result, said in zip(results, (*FILES.values(), *COMMANDS.values()), strict=True):
        assert result.outcome == "refused" and said in result.why, result


def test_a_section_of_a_config_json_that_is_a_number(tmp_path):
    (tmp_path / "config.json").write_text('{"train": 3}')
    with pytest.raises(
        ValueError, match=r"config\.json is no config.*config\.train is 3; expected"
    ):
        read_config(str(tmp_path), {**base.get_config().to_dict(), "train": 3})
