"""Golden crops are exact; folders follow torchvision's ImageFolder."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.images import (
    ImageFolder,
    UnreadableImageError,
    center_crop_adm,
    resize_and_crop,
)
from lightningdit_jax.data.sources import describe_images
from tests.golden import assert_close, index, load, to_nchw

CASE = index()["image_preprocess"]


def golden_image(name: str, golden: dict) -> Image.Image:
    return Image.open(io.BytesIO(golden[f"in.{name}.png"].tobytes())).convert("RGB")


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name, image in CASE["config"]["images"].items() for size in image["sizes"]],
)
def test_golden_center_crop(name, size):
    golden = load("image_preprocess")
    got = center_crop_adm(golden_image(name, golden), size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, golden[f"out.{name}.{size}"])


def test_golden_pixel_range():
    golden = load("image_preprocess")
    image = center_crop_adm(golden_image("b", golden), 32) / 127.5 - 1
    tolerance = {"rtol": 0.0, **CASE["tolerance"]["tensor32"]}
    assert_close(to_nchw(image), golden["out.b.tensor32"], tolerance)
    assert_close(to_nchw(image[:, ::-1]), golden["out.b.tensor32_flip"], tolerance)


@pytest.mark.parametrize(("width", "height"), [(50, 37), (37, 50), (16, 16), (20, 11), (9, 30)])
def test_resize_is_bilinear_without_antialiasing(width, height):
    """Against Pillow's affine transform, which samples alike but truncates."""
    size = 16
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    scale = size / min(width, height)
    resized = round(width * scale), round(height * scale)
    step = width / resized[0], height / resized[1]
    for place in (0.0, 0.4, 0.999):
        left, top = (int((n - size + 1) * place) for n in resized)
        want = image.transform(
            (size, size),
            Image.Transform.AFFINE,
            (step[0], 0, left * step[0], 0, step[1], top * step[1]),
            Image.Resampling.BILINEAR,
        )
        got = resize_and_crop(image, size, place, place)
        difference = got.astype(int) - np.asarray(want).astype(int)
        assert got.dtype == np.uint8
        assert difference.min() >= 0
        assert difference.max() <= 1


def test_a_crop_of_an_image_of_that_size_is_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(resize_and_crop(image, 16, 0.0, 0.0), pixels[:, :16])
    np.testing.assert_array_equal(resize_and_crop(image, 16, 0.0, 0.9999), pixels[:, 8:])


@pytest.fixture
def folder(tmp_path):
    """Two classes; one image lies deeper, one has an upper-case suffix, one file is no image."""
    for name, value in [("b/2.png", 2), ("b/10.JPG", 10), ("a/z/0.png", 0), ("a/1.png", 1)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (value * 20,) * 3).save(path, format="PNG")
    (tmp_path / "b" / "readme.txt").write_text("no image")
    (tmp_path / "list.txt").write_text("no class")
    return tmp_path


def test_folder_order(folder):
    images = ImageFolder(folder)
    assert images.class_names == ["a", "b"]
    assert images.num_classes == 2
    assert [p[len(str(folder)) + 1 :] for p in images.paths] == [
        "a/1.png",
        "a/z/0.png",
        "b/10.JPG",
        "b/2.png",
    ]
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1])
    assert [images.label(i) for i in range(len(images))] == [0, 0, 1, 1]
    assert images.image(0).getpixel((0, 0)) == (20, 20, 20)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "PA", "1", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    suffix = "tiff" if mode in ("CMYK", "YCbCr", "PA") else "png"
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a" / f"x.{suffix}")
    image = ImageFolder(tmp_path).image(0)
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "a" / "x.png")
    assert ImageFolder(tmp_path).image(0).getpixel((0, 0)) == (0x80,) * 3


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((4, 4), 0.5, np.float32), "floating point"),
        (np.full((4, 4), 70_000, np.int32), "from 70000 to 70000; expected 0 to 65535"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, pixels, reason):
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.tiff")
    with pytest.raises(UnreadableImageError, match=rf"x\.tiff cannot be decoded.*{reason}"):
        ImageFolder(tmp_path).image(0)


def test_a_file_that_cannot_be_read_is_no_corrupt_image(folder):
    """Were a storage failure a corrupt image, config.data.corrupt=skip would drop whole runs."""
    images = ImageFolder(folder)
    (folder / "a" / "1.png").unlink()
    with pytest.raises(OSError, match=r"1\.png cannot be read: .*No such file"):
        images.image(0)


def test_the_fingerprint_is_of_names_not_of_the_place(folder, tmp_path_factory):
    first = ImageFolder(folder).fingerprint()
    moved = tmp_path_factory.mktemp("elsewhere") / "images"
    folder.rename(moved)
    assert ImageFolder(moved).fingerprint() == first
    (moved / "b" / "2.png").rename(moved / "a" / "2.png")
    assert ImageFolder(moved).fingerprint() != first


def test_an_image_smaller_than_the_crop_is_enlarged():
    tiny = Image.new("RGB", (3, 5), (10, 20, 30))
    for pixels in (center_crop_adm(tiny, 8), resize_and_crop(tiny, 8, 0.5, 0.5)):
        assert pixels.shape == (8, 8, 3)
        np.testing.assert_array_equal(pixels[4, 4], [10, 20, 30])


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        ImageFolder(tmp_path / "absent")
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name} holds no images.*1 \.heic"):
        ImageFolder(tmp_path)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(FileNotFoundError, match="hollow holds no images"):
        ImageFolder(tmp_path)


def save(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path, format="PNG")


def test_hidden_folders_and_files_are_no_classes_and_no_images(folder):
    """At any depth; neither do they change the fingerprint."""
    before = ImageFolder(folder)
    hidden = [".ipynb_checkpoints/1.png", "__MACOSX/a/1.png", "b/._2.png", "a/z/@eaDir/0.png"]
    save(*(folder / name for name in hidden), folder / ".cover.png")
    (folder / "lost+found").mkdir()
    images = ImageFolder(folder)
    assert (images.class_names, images.paths) == (before.class_names, before.paths)
    assert images.fingerprint() == before.fingerprint()
    note, _ = images.notes
    assert note.endswith("skipped: .ipynb_checkpoints, __MACOSX, lost+found and 3 more")


def test_files_of_other_suffixes_are_counted(folder):
    for name in ("a/1.HEIC", "a/2.heic", "b/z/3.avif", "b/README"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    [note] = ImageFolder(folder).notes
    assert note.endswith("for their suffix: 2 .heic, 2 .txt, 1 .avif, 1 without one")


def test_a_folder_of_images_is_one_class(tmp_path):
    save(
        tmp_path / "pets" / "b.png", tmp_path / "pets" / "a.JPG", tmp_path / "pets" / ".x" / "c.png"
    )
    images = ImageFolder(tmp_path / "pets")
    assert images.class_names == ["pets"] and images.num_classes == 1
    assert [pathlib.Path(path).name for path in images.paths] == ["a.JPG", "b.png"]
    np.testing.assert_array_equal(images.labels, [0, 0])
    (tmp_path / "pets").rename(tmp_path / "animals")
    assert ImageFolder(tmp_path / "animals").fingerprint() == images.fingerprint()


def test_images_beside_class_folders_are_refused(folder):
    save(folder / "loose.png")
    with pytest.raises(ValueError, match=r"of 2 classes \(1, the first is loose\.png\)"):
        ImageFolder(folder)


def test_what_a_source_holds_is_said(folder):
    (folder / "a" / "1.heic").write_bytes(b"")
    first, second = describe_images(ImageFolder(folder))
    assert first == "4 images, 2 classes: a 2, b 2"
    assert "1 .heic" in second
    counts = np.bincount(Digits("test").labels)
    listed = ", ".join(f"{digit} {count}" for digit, count in enumerate(counts))
    assert describe_images(Digits("test")) == [f"355 images, 10 classes: {listed}"]
    many = [f"n{i:03d}" for i in range(1000)]
    assert class_line(many) == "1,000 classes: n000, n001, n002, ..., n999"
    assert class_line([os.fsdecode(b"caf\xe9")]) == "1 class: caf\\udce9"


def test_no_file_starts_a_program(folder, tmp_path_factory, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the file's suffix."""
    programs = tmp_path_factory.mktemp("programs")
    program, called = programs / "gs", programs / "called"
    program.write_text(f"#!/bin/sh\ntouch {called}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for other in ("EPS", "GIF"):
        Image.new("RGB", (4, 4)).save(folder / "a" / "1.png", other)
        with pytest.raises(UnreadableImageError, match=r"1\.png cannot .* none of BMP, JPEG, PNG"):
            ImageFolder(folder).image(0)
    assert not called.exists()


def test_the_content_may_be_of_another_format_of_the_list(folder):
    """ImageNet has a PNG called .JPEG."""
    for other in ("JPEG", "BMP", "PPM", "TIFF", "WEBP"):
        Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / "a" / "1.png", other)
        assert ImageFolder(folder).image(0).size == (4, 4)


def test_corrupt_image_is_named_when_read(folder):
    whole = (folder / "a" / "1.png").read_bytes()
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    truncated_jpeg = jpeg.getvalue()[: len(jpeg.getvalue()) // 2]
    for content in (b"", b"not an image", whole[: len(whole) - 30], truncated_jpeg):
        (folder / "a" / "1.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"1\.png cannot be decoded"):
            ImageFolder(folder).image(0)


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    """Eleven images used to be 451."""
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    (folder / "self").symlink_to(".")
    (folder / "up").symlink_to("..")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "3.png")
    (folder / "more").symlink_to(elsewhere)
    images = ImageFolder(tmp_path / "images")
    assert len(images) == 4
    assert "x/self" in images.notes[0] and "x/up" in images.notes[0]
