"""Samples as a folder of pictures."""

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.data.picture_folder import PictureFolder

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for number, image in reversed(list(enumerate(IMAGES))):
        Image.fromarray(image).save(folder / f"{number:06d}.png")
    (folder / "grid.txt").write_text("no picture")
    return folder


def test_they_are_read_by_name(folder):
    pictures = PictureFolder(folder)
    assert pictures.shape == IMAGES.shape and len(pictures) == 5
    assert pictures.notes == [f"{folder}: not read, for their suffix: 1 .txt"]
    batches = list(pictures.batches(2, 1, 4))
    assert [len(batch) for batch in batches] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES[1:4])


def test_none_is_resized(folder):
    Image.fromarray(IMAGES[0, :5]).save(folder / "000003.png")
    with pytest.raises(ValueError, match=r"000003\.png is 4x5 pixels, but .*000000\.png is 4x6"):
        list(PictureFolder(folder).batches(8, 0, 5))


def test_a_damaged_one_is_named(folder):
    path = folder / "000002.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"000002\.png cannot be decoded"):
        list(PictureFolder(folder).batches(8, 0, 5))


def test_folders_of_pictures_are_told(folder):
    with pytest.raises(ValueError, match=r"holds no images .* folders \(1\); expected samples"):
        PictureFolder(folder.parent)
