"""Worker processes read the same batches as threads do."""

import pytest

from lightningdit_jax.data.images import UnreadableImageError
from tests.data.test_pipeline import Echo, assert_same, pipeline, take


class Corrupt(Echo):
    """Cannot read its record 8."""

    def read_batch(self, indices, flip, crop=None):
        if 8 in indices:
            raise UnreadableImageError("dog/8.jpg cannot be decoded")
        return super().read_batch(indices, flip, crop)


def test_workers_read_the_same_batches_and_resume_with_threads():
    workers, threads = iter(pipeline(Echo(20), 4, num_workers=2)), iter(pipeline(Echo(20), 4))
    assert workers.get_state() == threads.get_state() == {"next_index": 0}
    assert_same(take(workers, 7), take(threads, 7))
    assert workers.get_state() == threads.get_state() == {"next_index": 7}
    threads.set_state({"next_index": 3})
    workers.set_state({"next_index": 3})
    assert_same(take(workers, 3), take(threads, 3))
    workers.close()


def test_errors_of_workers_name_the_file():
    corrupt = iter(pipeline(Corrupt(20), 4, num_workers=1, shuffle=False))
    next(corrupt), next(corrupt)
    for _ in range(2):  # and again, rather than going on behind it
        with pytest.raises(UnreadableImageError, match=r"dog/8\.jpg"):
            next(corrupt)
    corrupt.close()
