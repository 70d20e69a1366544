"""Files that hold many images, and lists of labels: tars, parquet, CSV."""

import io
import pathlib
import random
import tarfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lightningdit_jax.data.images import EncodedImages
from lightningdit_jax.data.labeled_files import LabeledFiles
from lightningdit_jax.data.parquet_images import ParquetImages
from lightningdit_jax.data.tar_images import TarImages
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind

Image.init()  # which imports plugins, and would within a child
_LABELS = (b"1", b"-1", b"", b"cat", b"9" * 30, b'{"label": 2}', b'{"label": "cat"}', b"[", b"\xff")
_LINES = ("a.png,cat", "b.png,dog", "a.png,1", "b.png", ",", "", '"', "a.png\tcat", "../a.png,cat")


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 3), (9, 9, 9)).save(file, "PNG")
    return file.getvalue()


def _tar(rng: random.Random) -> bytes:
    file = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for key in ("a", "b", rng.choice(("c", "n" * 130, "d/e", "é"))):
            members = [(f"{key}.png", _png()), (f"{key}.cls", b"1")]
            if not rng.randrange(4):
                members[1] = f"{key}.{rng.choice(('cls', 'json'))}", rng.choice(_LABELS)
            for name, content in members:
                info = tarfile.TarInfo(name[-90:] if form == tarfile.USTAR_FORMAT else name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _header_changed(content: bytes, rng: random.Random) -> bytes:
    """A header whose checksum is right."""
    data = bytearray(content)
    begin = 512 * rng.randrange(len(data) // 512)
    field, size = rng.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100)))
    text = rng.choice(
        (b"77777777777\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"LKxgSV0125", b"\0")
    )
    data[begin + field : begin + field + size] = text[:size].ljust(size, b"\0")
    data[begin + 148 : begin + 156] = b" " * 8
    data[begin + 148 : begin + 156] = b"%06o\0 " % (sum(data[begin : begin + 512]) % 8**6)
    return bytes(data)


def _tar_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"tars {seed} {number}")
        content = _tar(rng)
        for _ in range(rng.randrange(3)):
            change = rng.choice((mutations.of_bytes, _header_changed))
            content = change(content.ljust(512, b"\0"), rng)
        yield Input({"x.tar": content})


def _parquet(rng: random.Random) -> bytes:
    image = rng.choice((pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])))
    rows = [_png(), b"", _png()]
    column = pa.array(
        [{"bytes": row} for row in rows] if pa.types.is_struct(image) else rows, image
    )
    labels = rng.choice(([0, 1, 2], [-1, -1, -1], ["a", "b", "a"], [2**40, 0, 0], [None, 1, 1]))
    table = pa.table({"image": column, "label": pa.array(labels)})
    said = rng.choice(
        (b'{"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}', b"{", b"[]")
    )
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({b"huggingface": said}),
        file,
        row_group_size=rng.choice((1, 2, 5)),
        compression=rng.choice(("snappy", "none", "gzip", "zstd")),
        use_dictionary=rng.random() < 0.5,
    )
    return file.getvalue()


def _parquet_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"parquet {seed} {number}")
        content = _parquet(rng)
        if rng.randrange(5):
            content = mutations.of_bytes(content, rng)
        yield Input({"x.parquet": content})


def _list_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"lists of labels {seed} {number}")
        lines = [rng.choice(_LINES) for _ in range(rng.randrange(5))]
        if rng.randrange(2):
            lines = ["a.png,cat", "b.png,dog"]
        content = "\n".join(lines).encode()
        if rng.randrange(2):
            content = mutations.of_bytes(content, rng)
        yield Input({"list": content})


def _looked_at(images: EncodedImages) -> int:
    """The number of images, whose labels are classes and whose bytes are read."""
    assert np.all((images.labels >= 0) & (images.labels < images.num_classes))
    for index in range(len(images)):
        images.encoded(index)
        assert images.name(index)
    images.image(0)
    return len(images)


def _prepare_list(folder: pathlib.Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(_png())
    (folder / "list").write_text("a.png,cat\nb.png,dog\n")


def _prepare_tar(folder: pathlib.Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for name, content in (("a.png", _png()), ("a.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _prepare_parquet(folder: pathlib.Path) -> None:
    pq.write_table(pa.table({"image": [_png()], "label": [1]}), folder / "x.parquet")


KINDS = (
    Kind(
        "tars",
        _prepare_tar,
        _tar_inputs,
        lambda folder, given: _looked_at(TarImages(str(folder / "x.tar"))),
    ),
    Kind(
        "parquet",
        _prepare_parquet,
        _parquet_inputs,
        lambda folder, given: _looked_at(ParquetImages(str(folder / "x.parquet"), "train")),
    ),
    Kind(
        "lists of labels",
        _prepare_list,
        _list_inputs,
        lambda folder, given: _looked_at(LabeledFiles(folder, str(folder / "list"))),
    ),
)
