"""Tars as WebDataset writes them, written by tarfile here and read there by offset."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.data.images import UnreadableImageError
from lightningdit_jax.data.tar_images import TarImages


def image(value, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (value, value, value)).save(file, kind, lossless=True)
    return file.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
    """members: (name, content) in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def sample(key, value, label):
    return [(f"{key}.png", image(value)), (f"{key}.cls", str(label).encode())]


def grays(images):
    return [images.image(i).getpixel((0, 0))[0] for i in range(len(images))]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_images_and_labels_of_a_folder_of_tars(tmp_path, form):
    """Of every format and ending, in folders within the tar, and names that need two headers."""
    long = "train/n" + "o" * (120 if form != tarfile.USTAR_FORMAT else 20)
    write(
        tmp_path / "train-0.tar",
        [
            ("readme.txt", b"of nothing"),
            ("train/a.jpg", image(10, "JPEG")),
            ("train/a.json", b'{"label": 1, "width": 6}'),
            ("train/a.cls", b"2\n"),  # the number holds
            ("train/b.CLS", b"0"),  # before its image
            ("train/b.WEBP", image(20, "WEBP")),
            *sample(long, 30, 1),
            ("train/a.png", image(40)),  # of the same name, but no neighbor: another sample
            ("train/a.json", b'{"cls": 0}'),
        ],
        form,
    )
    write(tmp_path / "more" / "train-1.tar", sample("c.d", 50, 4)[1:], form)
    write(tmp_path / "train-2.tar", [("._x.png", b""), *sample("e", 60, 4)], form)
    images = TarImages(str(tmp_path))
    assert np.allclose(grays(images), [10, 20, 30, 40, 60], atol=2)
    assert images.labels.tolist() == [2, 0, 1, 0, 4]
    assert list(images.class_names) == ["0", "1", "2", "3", "4"]
    assert images.name(2) == f"{long} in {tmp_path}/train-0.tar"
    assert "1 d.cls, 1 txt" in images.notes[0] or "1 txt, 1 d.cls" in images.notes[0]
    assert grays(pickle.loads(pickle.dumps(images))) == grays(images)
    assert len(TarImages(f"{tmp_path}/train-[0]*.tar")) == 4


def test_names_of_classes_in_json(tmp_path):
    members = [("a.png", image(1)), ("a.json", b'{"label": "owl"}')]
    members += [("b.png", image(2)), ("b.json", b'{"label": "cat"}')]
    images = TarImages(write(tmp_path / "a.tar", members))
    assert images.labels.tolist() == [1, 0] and list(images.class_names) == ["cat", "owl"]
    other = write(tmp_path / "b.tar", [*members[:3], ("b.json", b'{"label": "owl"}')])
    assert TarImages(other).fingerprint() != images.fingerprint()


def test_all_as_one_class(tmp_path):
    path = write(tmp_path / "a.tar", [("a.png", image(1)), *sample("b", 2, 7)])
    told = r"1 of 2 images have no label, the first is a in .*a\.tar; .*config\.data\.labels=none"
    with pytest.raises(ValueError, match=told):
        TarImages(path)
    assert TarImages(path, "none").labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a.txt", b"")], "holds no images .*; its members end in txt"),
        ([], "holds no images"),
        ([("a.png", b""), ("a.cls", b"cat")], r"a\.tar: 'a\.cls' holds 'cat'; expected a whole nu"),
        ([("a.png", b""), ("a.cls", b"1" * 65)], r"a\.cls' has 65 bytes; expected a label"),
        (
            [("a.png", b""), ("a.cls", b"9" * 40)],
            r"label 9{20}\.\.\. \(a in .*a\.tar\) is no class",
        ),
        ([("a.png", b""), ("a.cls", b"-3")], r"label -3 \(a in .*a\.tar\) is no class"),
        ([("a.png", b""), ("a.json", b"{")], r"'a\.json' is no JSON"),
        ([("a.png", b""), ("a.json", b"[" * 9999)], r"'a\.json' is no JSON"),
        (
            [("a.png", b""), ("a.json", b'{"label": true}')],
            "has the label True; expected a whole number or a name",
        ),
        ([("a.png", b""), ("a.jpg", b""), ("a.cls", b"1")], "sample 'a' has two images"),
        (
            [*sample("a", 1, 0), ("b.png", b""), ("b.json", b'{"label": "cat"}')],
            r"labels are numbers and names: 0 \(a in .*a\.tar\) and 'cat' \(b in .*a\.tar\)",
        ),
    ],
)
def test_samples_that_do_not_do_are_named(tmp_path, members, told):
    with pytest.raises(ValueError, match=told):
        TarImages(write(tmp_path / "a.tar", members))


def test_damage_is_named(tmp_path):
    """Also where tarfile takes a damaged header for the end."""
    path = tmp_path / "a.tar"
    with pytest.raises(FileNotFoundError, match=r"a\.tar: there are no \.tar files"):
        TarImages(str(path))
    members = [m for i in range(4) for m in sample(str(i), i, i)]
    whole = (write(path, members), path.read_bytes())[1]
    third = whole.index(b"2.png")
    for content, told in [
        (b"", "empty"),
        (whole[: third + 600], "truncated|unexpected end"),
        (whole[: third + 100], "members end|truncated|unexpected end"),
        (whole[:third] + b"x" + whole[third + 1 :], f"at byte {third:,} of .* its members end"),
        (whole + whole, "another tar joined to it"),
        (gzip.compress(whole), r"compressed; unpack it to a \.tar"),
        (b"no tar" * 1000, ""),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.tar: .*({told})"):
            TarImages(str(path))
    path.write_bytes(whole)
    images = TarImages(str(path))
    path.write_bytes(whole[: third + 540])  # cut while it is used
    with pytest.raises(UnreadableImageError, match=r"2 in .*a\.tar cannot be decoded"):
        images.image(2)
    path.unlink()
    with pytest.raises(OSError, match=r"0 in .*a\.tar cannot be read"):
        images.image(0)


def test_a_header_that_claims_a_size_is_not_followed(tmp_path):
    """Sizes beyond the file, and those below nothing, which would lead back without end."""
    path = tmp_path / "a.tar"
    write(path, sample("a", 1, 0), tarfile.GNU_FORMAT)
    whole = path.read_bytes()
    for size in (b"77777777777\0", b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"\xff" * 12):
        header = bytearray(whole[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(bytes(header) + whole[512:])
        with pytest.raises(ValueError, match=r"a\.tar: "):
            TarImages(str(path))


def test_json_labels_are_those_of_another_reader(tmp_path):
    """Grouped here by hand from tarfile's own list."""
    rng = np.random.default_rng(0)
    members = []
    for i in range(20):
        label = int(rng.integers(5))
        members += [
            (f"{i:03d}.png", image(i)),
            (f"{i:03d}.json", json.dumps({"label": label}).encode()),
        ]
    path = write(tmp_path / "a.tar", members)
    with tarfile.open(path) as archive:
        texts = [archive.extractfile(m).read() for m in archive.getmembers() if "json" in m.name]
    images = TarImages(path)
    assert images.labels.tolist() == [json.loads(text)["label"] for text in texts]
    assert grays(images) == [*range(20)]
