"""Samples on disk: no gap and no double after a kill, whole files only."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.inference.sampling.store import SampleStore

SETTINGS = {"seed": 0, "cfg_scale": 2.0, "weights": {"dit": {"step": 3}}}
IMAGES = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3), np.uint8)


def open_store(folder, settings=SETTINGS, total=23):
    return SampleStore(epath.Path(folder), settings, total)


def test_parts_in_any_order_and_overlapping_become_one_file(tmp_path):
    open_store(tmp_path).write(10, IMAGES[10:15])
    store = open_store(tmp_path)
    assert store.missing() == [(0, 10), (15, 23)]
    store.write(0, IMAGES[:8])
    store.write(4, IMAGES[4:12])
    (tmp_path / "samples.parts" / "00000015_8.npy.tmp").write_bytes(b"half")
    assert store.missing() == [(15, 23)]
    with pytest.raises(ValueError, match="samples 15 to 22 are missing"):
        list(store.images())
    store.write(15, IMAGES[15:])
    store.write_npz(np.arange(23))
    store.write_pngs()
    store.finish({"seconds": 1})
    with np.load(tmp_path / "samples.npz") as archive:
        np.testing.assert_array_equal(archive["arr_0"], IMAGES)
        np.testing.assert_array_equal(archive["arr_1"], np.arange(23))
    assert len(list((tmp_path / "samples").iterdir())) == 23
    np.testing.assert_array_equal(Image.open(tmp_path / "samples" / "000017.png"), IMAGES[17])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples", "samples.json", "samples.npz"]
    assert json.loads((tmp_path / "samples.json").read_text())["cfg_scale"] == 2.0


def test_finished_samples_that_are_damaged_are_drawn_again(tmp_path, caplog):
    """Each byte of images and labels, one in seven; a picture that is gone."""
    store = open_store(tmp_path)
    store.write(0, IMAGES)
    store.write_npz(np.arange(23))
    store.write_pngs()
    checksum = NpzImages(tmp_path / "samples.npz").checksum()
    store.finish({"arr_0_crc32": checksum})
    outputs = ["samples.npz", "samples"]
    path = tmp_path / "samples.npz"
    data = path.read_bytes()
    arrays = [data.index(IMAGES.tobytes()), data.index(np.arange(23).tobytes())]
    for begin, size in zip(arrays, (IMAGES.nbytes, np.arange(23).nbytes)):
        for place in range(begin, begin + size, 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            assert not store.is_finished(outputs)
    assert caplog.text.count(f"{path} is damaged") == caplog.text.count("are drawn again") > 100
    path.write_bytes(data)
    assert store.is_finished(outputs)
    (tmp_path / "samples" / "000007.png").unlink()
    assert not store.is_finished(outputs)


def test_finished_samples_are_known_by_their_description(tmp_path):
    store = open_store(tmp_path)
    store.write(0, IMAGES)
    store.write_npz(np.arange(23))
    store.finish({"seconds": 1})
    assert store.is_finished(["samples.npz"])
    assert not store.is_finished(["samples.npz", "samples"])
    assert not open_store(tmp_path, {**SETTINGS, "seed": 1}).is_finished(["samples.npz"])


def test_what_is_written_over_is_not_said_to_be_there(tmp_path):
    outputs = {"runtime": {"outputs": ["samples.npz", "samples"]}}
    first = open_store(tmp_path)
    first.write(0, IMAGES)
    first.write_npz(np.arange(23))
    first.write_pngs()
    first.finish(outputs["runtime"])
    assert first.is_finished(["samples.npz", "samples"])

    second = open_store(tmp_path, {**SETTINGS, "seed": 1}, total=9)
    second.write(0, IMAGES[9:18])
    second.retract()  # and is killed while it writes
    assert not open_store(tmp_path, {**SETTINGS, "seed": 1}).is_finished(["samples"])
    for left in (tmp_path / "samples.parts").iterdir():
        left.unlink()  # as a refusal of other samples advises
    assert not open_store(tmp_path).is_finished(["samples"]), "the pictures may be of either"

    second.write(0, IMAGES[9:18])
    (tmp_path / "samples" / "mine.png").write_bytes(b"")
    second.write_pngs()
    second.finish({"outputs": ["samples"]})
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [*(f"{i:06d}.png" for i in range(9)), "mine.png"]
    assert second.is_finished(["samples"])
    assert not second.is_finished(["samples", "samples.npz"]), "that is of the first"


def test_parts_of_other_samples_are_refused(tmp_path):
    open_store(tmp_path).write(0, IMAGES[:5])
    with pytest.raises(ValueError, match=r"cfg_scale 2.0, now 3.0\. Go on with"):
        open_store(tmp_path, {**SETTINGS, "cfg_scale": 3.0})


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap"])
def test_a_damaged_part_is_drawn_again(tmp_path, harm, caplog):
    store = open_store(tmp_path)
    for first in (0, 8, 16):
        store.write(first, IMAGES[first : first + 8])
    parts = sorted((tmp_path / "samples.parts").glob("*.npy"))
    content = parts[1].read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    changed = {"flip": bytes(flipped), "cut": content[:-9], "empty": b"", "swap": None}
    parts[1].write_bytes(parts[0].read_bytes() if harm == "swap" else changed[harm])
    store = open_store(tmp_path)
    assert store.missing() == [(8, 16)]
    assert caplog.text.count(f"{parts[1]} is not as it was written") == 1
    with pytest.raises(ValueError, match="samples 8 to 15 are missing"):
        list(store.images())
    store.write(8, IMAGES[8:16])
    np.testing.assert_array_equal(np.concatenate(list(store.images())), IMAGES)
    assert open_store(tmp_path).missing() == []
    parts[2].write_bytes(b"later")
    with pytest.raises(ValueError, match="is not as it was written"):
        list(store.images())


def test_parts_of_an_older_version_are_used_and_looked_at(tmp_path, caplog):
    store = open_store(tmp_path)
    store.write(0, IMAGES[:8])
    [part] = (tmp_path / "samples.parts").glob("*.npy")
    old = part.rename(part.with_name("00000000_8.npy"))
    assert open_store(tmp_path).missing() == [(8, 23)]
    np.save(old, IMAGES[:7])
    assert open_store(tmp_path).missing() == [(0, 23)]
    assert "00000000_8.npy holds uint8 of shape (7, 4, 4, 3): its samples are drawn" in caplog.text


def test_parts_without_their_settings_are_not_used(tmp_path, caplog):
    open_store(tmp_path, {**SETTINGS, "seed": 1}).write(0, IMAGES[8:16])
    (tmp_path / "samples.parts" / "samples.json").unlink()
    store = open_store(tmp_path)
    assert store.missing() == [(0, 23)]
    store.write(8, IMAGES[8:])
    assert store.missing() == [(0, 8)] and "nobody knows which samples: removed" in caplog.text
