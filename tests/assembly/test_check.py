"""--mode=check on images whose faults are known, of every source."""

import io
import json
import os
import subprocess
import sys
import tarfile
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightningdit_jax.assembly.check import check
from lightningdit_jax.data import inspection
from lightningdit_jax.data.inspection import inspect
from lightningdit_jax.data.sources import open_images
from tests import tiny


def encoded(value, size=(20, 30), mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).convert(mode).save(file, kind)
    return file.getvalue()


# Class, name, content: two that are the same, one of them in another class; two that are damaged.
IMAGES = [
    ("cat", "a.png", encoded(1)),
    ("cat", "b.png", encoded(2, (100, 64), "L")),
    ("cat", "c.jpg", encoded(3, (300, 200), kind="JPEG")),
    ("cat", "d.png", encoded(1)),
    ("cat", "e.png", encoded(4)[:-30]),
    ("dog", "f.png", encoded(5, (31, 600), "RGBA")),
    ("dog", "g.png", encoded(1)),
    ("dog", "h.png", b"no image"),
]
HELD_OUT = [("cat", "x.png", encoded(9)), ("dog", "y.png", encoded(2, (100, 64), "L"))]


def as_folder(folder, images):
    for label, name, content in images:
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / name).write_bytes(content)


def as_parquet(folder, images):
    folder.mkdir(parents=True)
    columns = {"image": [content for _, _, content in images], "label": [n for n, _, _ in images]}
    pq.write_table(pa.table(columns), folder / "train.parquet", row_group_size=3)


def as_tars(folder, images):
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for label, name, content in images:
            said = json.dumps({"label": label}).encode()
            for member, data in ((name, content), (f"{name[0]}.json", said)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


NAMES = {
    "folder": lambda i, images=IMAGES: os.path.join(*images[i][:2]),
    "parquet": lambda i, images=IMAGES: f"row {i} of ",
    "webdataset": lambda i, images=IMAGES: f"{images[i][1][0]} in ",
}
WRITE = {"folder": as_folder, "parquet": as_parquet, "webdataset": as_tars}


@pytest.mark.parametrize("source", WRITE)
def test_what_is_there_is_found(tmp_path, source, capsys):
    WRITE[source](tmp_path / "train", IMAGES)
    WRITE[source](tmp_path / "valid", HELD_OUT)
    config = tiny.config(
        "digits_vavae",
        data__source=source,
        data__path=str(tmp_path / "train"),
        data__split="train",
        data__valid_path=str(tmp_path / "valid"),
    )
    assert check(config, str(tmp_path / "run")) == 2
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "check.json").read_text())
    trained, held_out = report["trained_on"], report["held_out"]
    name = NAMES[source]
    assert (trained["images"], trained["whole"]) == (8, 6)
    assert trained["classes"] == {"cat": 5, "dog": 3}
    assert trained["damaged"]["count"] == 2
    for damaged, index in zip(trained["damaged"]["first"], (4, 7)):
        assert name(index) in damaged["name"]
        assert "cannot be decoded" in damaged["why"] and damaged["why"] in said
    assert trained["formats"] == {"PNG": 5, "JPEG": 1}
    assert trained["color_modes"] == {"RGB": 4, "L": 1, "RGBA": 1}
    sizes = {"width": (20, 25, 300), "height": (30, 47, 600), "short_side": (20, 25, 200)}
    for key, want in sizes.items():
        assert tuple(trained["sizes"][key].values()) == want
    assert trained["short_side_below"] == {"32": 4, "64": 4, "128": 5, "256": 6, "512": 6}
    [group] = trained["the_same"]["first"]
    assert [name(i) in n for n, i in zip(group, (0, 3, 6))] == [True] * 3
    assert trained["the_same_in_several_classes"]["first"] == [group]
    assert (held_out["images"], held_out["damaged"]["count"]) == (2, 0)
    [pair] = report["held_out_and_trained_on"]["first"]
    assert name(1) in pair[0] and name(1, HELD_OUT) in pair[1]
    for line in (
        "8 images, 2 classes: cat 5, dog 3",
        "width 20 to 300, height 30 to 600, short side 20 to 200, half of them below 25",
        "4 below 32, 4 below 64, 5 below 128",
        "formats: 5 PNG, 1 JPEG",
        "color modes: 4 RGB, 1 L, 1 RGBA",
        "there again, byte for byte: 2 images",
        "the same image in several classes: 1",
        "damaged: 2 images",
        "held out and trained on, byte for byte: 1 image",
        "2 of 10 damaged",
    ):
        assert line in said


def test_sources_without_bytes_of_their_own_are_compared_by_pixels():
    digits = open_images("digits", path="", split="test", size=8, tfds_name="")
    digits.pixels[7] = digits.pixels[3]
    found = inspect(digits, 2)
    by_pixels = {}
    for i, pixels in enumerate(digits.pixels):
        by_pixels.setdefault(pixels.tobytes(), []).append(i)
    assert found.same() == [group for group in by_pixels.values() if len(group) > 1]
    assert [3, 7] in found.same()
    assert list(found.classes().values()) == np.bincount(digits.labels).tolist()
    assert not found.damaged and not found.formats and (found.sides == 8).all()


def test_a_file_that_goes_away_is_named_and_the_rest_is_read(tmp_path):
    as_folder(tmp_path, IMAGES[:3])
    images = open_images("folder", path=str(tmp_path), split="", size=8, tfds_name="")
    (tmp_path / "cat" / "b.png").unlink()
    done = []
    found = inspect(images, 3, done.append)
    [(index, why)] = found.damaged
    assert index == 1 and "b.png cannot be read" in why and done == [3]
    assert found.whole.tolist() == [True, False, True]


def test_latents_are_another_modes(tmp_path):
    with pytest.raises(ValueError, match=r"--mode=check is of images; --mode=verify"):
        check(tiny.config("digits_dit"), str(tmp_path))


def test_nothing_is_damaged_where_all_is_whole(tmp_path, capsys):
    as_folder(tmp_path / "images", IMAGES[:4])
    config = tiny.config("digits_vavae", data__source="folder", data__path=str(tmp_path / "images"))
    assert check(config, str(tmp_path / "run")) == 0
    assert "all 4 images are whole" in capsys.readouterr().out


def test_the_status_of_the_command_says_whether_all_is_whole(tmp_path):
    as_folder(tmp_path / "images", IMAGES[:5])
    command = [
        sys.executable,
        "main.py",
        "--config=configs/digits_vavae.py",
        "--mode=check",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=folder",
        f"--config.data.path={tmp_path / 'images'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert "e.png cannot be decoded" in done.stdout and "1 of 5 damaged" in done.stdout
    assert os.listdir(tmp_path / "run") == ["check.json"]


def test_pixels_are_not_kept(tmp_path, monkeypatch):
    """Of many photographs they would be gigabytes."""
    as_folder(tmp_path, [("cat", f"{i:03d}.png", encoded(i)) for i in range(100)])
    images = open_images("folder", path=str(tmp_path), split="", size=8, tfds_name="")
    seen, alive = [], []

    def decode(*arguments):
        picture = original(*arguments)
        seen.append(weakref.ref(picture))
        alive.append(sum(ref() is not None for ref in seen))
        return picture

    original = inspection.decode
    monkeypatch.setattr(inspection, "decode", decode)
    assert inspect(images, 2).whole.all()
    assert len(alive) == 100 and max(alive) <= 4
