"""Images of .npz files, read and written in pieces."""

import numpy as np
import pytest

from lightningdit_jax.data.npz_images import NpzImages, write_npz_images

RNG = np.random.default_rng(0)


def pictures(count):
    return RNG.integers(0, 256, (count, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_in_pieces(tmp_path, save):
    images = pictures(11)
    save(tmp_path / "x.npz", images, np.arange(11))
    source = NpzImages(tmp_path / "x.npz")
    assert len(source) == 11
    batches = list(source.batches(3, 2, 9))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), images[2:9])


def test_other_files_are_named(tmp_path):
    np.savez(tmp_path / "floats.npz", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "names.npz", images=pictures(2))
    (tmp_path / "text.npz").write_bytes(b"text")
    for name, message in [
        ("floats", r"float64 of shape \(2, 4, 4, 3\); expected uint8"),
        ("names", r"lacks 'arr_0'; it has \['images.npy'\]"),
        ("text", "not an .npz file"),
    ]:
        with pytest.raises(ValueError, match=message):
            NpzImages(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="there is no such"):
        NpzImages(tmp_path / "absent.npz")


def test_written_files_are_numpys(tmp_path):
    images, others = pictures(7), {"mu": np.arange(3.0), "extractor": np.array("name")}
    write_npz_images(tmp_path / "x.npz", np.split(images, [2, 2, 5]), images.shape, others)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["arr_0"], images)
        np.testing.assert_array_equal(archive["mu"], others["mu"])
        assert str(archive["extractor"]) == "name"
    np.testing.assert_array_equal(
        np.concatenate(list(NpzImages(tmp_path / "x.npz").batches(4, 0, 7))), images
    )


def test_a_file_that_lacks_images_does_not_appear(tmp_path):
    with pytest.raises(ValueError, match=r"3 images were given for an array of shape \(4, 6, 5, 3"):
        write_npz_images(tmp_path / "x.npz", [pictures(3)], (4, 6, 5, 3), {})
    assert not list(tmp_path.iterdir())
