"""Order, disjointness, flips and resume, on a source that records what it was asked for."""

import json
import pickle
import threading
import time

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import UnreadableImageError, center_crop_adm
from lightningdit_jax.data.pipeline import make_pipeline, sequential_batches, shift_of_batches


class Echo:
    """Returns what it is asked for, the early batches later than the late ones."""

    draws_crops = True

    def __init__(self, size: int, delay: float = 0.0):
        self.size, self.delay = size, delay
        self.threads: set[str] = set()

    def __len__(self):
        return self.size

    def read_batch(self, indices, flip, crop=None):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay * (indices[0] % 3))
        crop = np.full((len(indices), 2), -1.0) if crop is None else crop
        return {"index": indices, "flip": flip, "crop": crop}


def pipeline(source, batch_size, **options):
    settings = {"seed": 0, "flip": True, "num_threads": 4, "prefetch_batches": 3, **options}
    return make_pipeline(source, global_batch_size=batch_size, **settings)


def take(iterator, count):
    """The next batches, joined."""
    batches = [next(iterator) for _ in range(count)]
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (7, 3), (3, 8), (1, 4), (5, 5)])
def test_every_record_once_per_epoch(size, batch):
    epochs = 6
    count = -(-epochs * size // batch)
    order = take(iter(pipeline(Echo(size), batch)), count)["index"][: epochs * size]
    for epoch in order.reshape(epochs, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_epochs_and_seeds_differ_and_are_reproducible():
    first = take(iter(pipeline(Echo(100), 10)), 20)
    again = take(iter(pipeline(Echo(100), 25)), 8)
    assert_same(again, first)  # the batch size only cuts the stream differently
    order = first["index"].reshape(2, 100)
    other = take(iter(pipeline(Echo(100), 10, seed=1)), 10)["index"]
    for a, b in [(order[0], order[1]), (order[0], other), (order[0], np.arange(100))]:
        assert np.sum(a == b) < 10  # about 1 agrees by chance


def test_order_is_uniform():
    """Where record 0 comes, over many seeds: chi-squared with 9 degrees of freedom."""
    places = [
        int(np.flatnonzero(take(iter(pipeline(Echo(10), 10, seed=s)), 1)["index"] == 0)[0])
        for s in range(200)
    ]
    expected = 20
    chi2 = np.sum((np.bincount(places, minlength=10) - expected) ** 2 / expected)
    assert chi2 < 27.9  # exceeded with probability 0.001


def test_without_shuffling_the_order_is_that_of_the_source():
    order = take(iter(pipeline(Echo(5), 4, shuffle=False)), 3)["index"]
    np.testing.assert_array_equal(order, np.arange(12) % 5)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_are_disjoint_and_make_up_the_global_batch(processes):
    whole = iter(pipeline(Echo(13), 8))
    parts = [
        iter(pipeline(Echo(13), 8, process_index=i, process_count=processes))
        for i in range(processes)
    ]
    for _ in range(10):
        got = [next(part) for part in parts]
        assert all(len(p["index"]) == 8 // processes for p in got)
        assert_same({k: np.concatenate([p[k] for p in got]) for k in got[0]}, next(whole))


def test_flips_are_half_and_change_between_epochs():
    n = 10_000
    flip = take(iter(pipeline(Echo(n), 1000, shuffle=False)), 20)["flip"].reshape(2, n)
    for draws in (*flip, flip[0] ^ flip[1]):  # independent between epochs as well
        assert abs(draws.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    assert not take(iter(pipeline(Echo(n), 1000, flip=False)), 2)["flip"].any()


def test_crops_are_uniform_and_independent_of_flips():
    n = 10_000
    drawn = take(iter(pipeline(Echo(n), 1000)), 10)
    crop, flip = drawn["crop"], drawn["flip"]
    assert crop.min() >= 0
    assert crop.max() < 1
    for axis in range(2):
        distribution = np.sort(crop[:, axis])
        assert np.abs(distribution - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)
    correlation = np.corrcoef(np.stack([crop[:, 0], crop[:, 1], flip, drawn["index"]]))
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(n)


@pytest.mark.parametrize("done", [0, 1, 7])
def test_resumes_from_the_state_with_any_number_of_processes(done):
    iterator = iter(pipeline(Echo(11), 6))
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state == {"next_index": done}
    want = take(iterator, 5)
    fresh = iter(pipeline(Echo(11), 6))
    next(fresh)  # a buffer that has to be thrown away
    fresh.set_state(state)
    assert_same(take(fresh, 5), want)
    parts = [iter(pipeline(Echo(11), 6, process_index=i, process_count=3)) for i in range(3)]
    for part in parts:
        part.set_state(state)
    rows = [np.concatenate([p["index"] for p in map(next, parts)]) for _ in range(5)]
    np.testing.assert_array_equal(np.concatenate(rows), want["index"])


@pytest.mark.parametrize("sizes", [(4, 12, 2), (6, 2, 12), (2, 6, 4)])
def test_other_batch_sizes_go_on_at_the_next_record(sizes):
    """Three sizes one after another are cut from one stream, in each of two processes."""
    whole = take(iter(pipeline(Echo(11), 2)), 60)
    next_index, shift, before, position = 0, 0, sizes[0], 0
    for size in sizes:
        shift = shift_of_batches(next_index, before, size, shift)
        rows = []
        for process in range(2):
            options = {"process_index": process, "process_count": 2}
            iterator = iter(pipeline(Echo(11), size, shift=shift, **options))
            iterator.set_state({"next_index": next_index})
            rows.append([next(iterator) for _ in range(3)])
        next_index, before = iterator.get_state()["next_index"], size
        for pair in zip(*rows):
            for name in whole:
                got = np.concatenate([batch[name] for batch in pair])
                np.testing.assert_array_equal(got, whole[name][position : position + size])
            position += size


def test_threads_prefetch_and_keep_the_order():
    slow = Echo(50, delay=0.01)
    got = take(iter(pipeline(slow, 5, num_threads=4, prefetch_batches=4)), 20)
    assert len(slow.threads) > 1
    assert_same(got, take(iter(pipeline(Echo(50), 5, num_threads=1, prefetch_batches=1)), 20))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="empty"):
        pipeline(Echo(0), 4)
    with pytest.raises(ValueError, match=r"batch_size is 6.*4 processes"):
        pipeline(Echo(5), 6, process_count=4)


def test_an_error_while_reading_reaches_the_caller():
    class Broken(Echo):
        def read_batch(self, indices, flip, crop=None):
            raise ValueError("dog/17.jpg cannot be decoded")

    with pytest.raises(ValueError, match=r"dog/17\.jpg"):
        next(iter(pipeline(Broken(5), 5)))


@pytest.mark.parametrize(
    ("ranges", "size"),
    [([(0, 10)], 3), ([(2, 9)], 7), ([(4, 4)], 2), ([(0, 2)], 5), ([(5, 9), (0, 3)], 2), ([], 2)],
)
def test_sequential_batches_cover_the_ranges_once(ranges, size):
    seen = []
    for indices, batch in sequential_batches(Echo(10), size, ranges):
        np.testing.assert_array_equal(batch["index"], indices)
        assert not batch["flip"].any()
        assert (batch["crop"] == -1).all()
        seen.append(indices.tolist())
    want = [list(range(i, min(i + size, b))) for a, b in ranges for i in range(a, b, size)]
    assert seen == want


@pytest.mark.parametrize(("start", "stop", "size"), [(-1, 5, 2), (5, 4, 2), (0, 11, 2), (0, 5, 0)])
def test_sequential_batches_refuse_bad_ranges(start, stop, size):
    with pytest.raises(ValueError, match="of 10"):
        sequential_batches(Echo(10), size, [(0, 1), (start, stop)])


class Gradients:
    """Images in which a pixel's value tells where it was: red across, green down, blue which."""

    class_names = ("a", "b")
    num_classes = 2

    def __len__(self):
        return 40

    def image(self, index):
        pixels = np.zeros((32, 48, 3), np.uint8)
        pixels[..., 0] = np.arange(48)
        pixels[..., 1] = np.arange(32)[:, None]
        pixels[..., 2] = index
        return Image.fromarray(pixels)

    def label(self, index):
        return index % 2

    def name(self, index):
        return f"image {index}"


def test_image_batches_crop_flip_and_label():
    source = ImageBatches(Gradients(), 32, "random_crop", num_threads=2)
    crop = np.array([[0.5, 0.0], [0.5, 0.999], [0.5, 0.999]])
    batch = source.read_batch(np.array([3, 4, 5]), np.array([False, False, True]), crop)
    assert batch["images"].dtype == np.uint8
    assert batch["labels"].dtype == np.int32
    np.testing.assert_array_equal(batch["labels"], [1, 0, 1])
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 2], [3, 4, 5])
    across = batch["images"][:, 0, :, 0]
    np.testing.assert_array_equal(across, [np.arange(32), np.arange(16, 48), np.arange(47, 15, -1)])


def test_image_batches_crop_the_center_in_evaluation_and_on_request():
    flip = np.array([False])
    want = center_crop_adm(Gradients().image(7), 16)
    for augment, crop in [("random_crop", None), ("center_crop", np.array([[0.1, 0.9]]))]:
        source = ImageBatches(Gradients(), 16, augment, num_threads=1)
        batch = source.read_batch(np.array([7]), flip, crop)
        np.testing.assert_array_equal(batch["images"][0], want)


def test_image_pipeline_crops_every_place_and_survives_pickling():
    source = ImageBatches(Gradients(), 32, "random_crop", num_threads=2)
    first = next(iter(pipeline(source, 80, flip=False)))
    lefts = first["images"][:, 0, 0, 0]
    assert len(set(lefts.tolist())) > 14  # of 17 places
    restored = pickle.loads(pickle.dumps(source))
    assert_same(next(iter(pipeline(restored, 80, flip=False))), first)


class Damaged(Gradients):
    """Images of which every fifth cannot be read."""

    def image(self, index):
        if index % 5 == 0:
            raise UnreadableImageError(f"image {index} cannot be decoded")
        return super().image(index)


def test_unreadable_images_stop_a_run_by_default():
    source = ImageBatches(Damaged(), 16, "center_crop", num_threads=2)
    with pytest.raises(ValueError, match="image 5 cannot be decoded"):
        source.read_batch(np.arange(4, 8), np.zeros(4, bool))
    with pytest.raises(ValueError, match="cannot be decoded"):
        list(sequential_batches(source, 8, [(0, 40)]))


def test_before_a_run_one_image_is_read():
    """The first that can be; with "stop" the first of all."""

    class Few(Damaged):
        def __len__(self):
            return 1  # the damaged one

    with pytest.raises(UnreadableImageError, match=r"image 0 cannot be decoded.*corrupt=skip"):
        ImageBatches(Damaged(), 16, "center_crop", num_threads=2).check_first()
    ImageBatches(Damaged(), 16, "center_crop", num_threads=2, corrupt="skip").check_first()
    with pytest.raises(UnreadableImageError, match="no image of 1 can be decoded: image 0 "):
        ImageBatches(Few(), 16, "center_crop", num_threads=2, corrupt="skip").check_first()


def test_skipped_images_are_left_out_in_order_and_named_once(caplog):
    source = ImageBatches(Damaged(), 16, "center_crop", num_threads=2, corrupt="skip")
    for _ in range(2):
        found = list(sequential_batches(source, 8, [(0, 40)]))
        indices = np.concatenate([indices for indices, _ in found])
        np.testing.assert_array_equal(indices, [i for i in range(40) if i % 5])
        for indices, batch in found:
            assert batch.keys() == {"images", "labels"}
            np.testing.assert_array_equal(batch["images"][:, 0, 0, 2], indices)
            np.testing.assert_array_equal(batch["labels"], indices % 2)
    assert len(caplog.messages) == 8
    assert any("image 35" in message for message in caplog.messages)


def test_in_training_others_of_the_batch_stand_in():
    source = ImageBatches(Damaged(), 32, "random_crop", num_threads=2, corrupt="skip")
    indices = np.arange(3, 8)
    batch = source.read_batch(indices, np.zeros(5, bool), np.full((5, 2), 0.5))
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 2], [3, 4, 3, 6, 7])
    np.testing.assert_array_equal(batch["labels"], [1, 0, 1, 0, 1])
    with pytest.raises(ValueError, match="none of the 2 images of a batch"):
        source.read_batch(np.array([0, 5]), np.zeros(2, bool), np.full((2, 2), 0.5))


def test_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="'mixup'"):
        ImageBatches(Gradients(), 16, "mixup", num_threads=1)
