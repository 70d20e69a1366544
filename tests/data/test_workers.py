"""Worker processes read the same batches as threads do."""

import os
import signal

import pytest

from lightningdit_jax.data import workers as workers_module
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


def processes_of(iterator):
    return sorted(iterator._processes, key=lambda process: process.pid)


def test_batches_go_on_where_a_worker_died(caplog):
    workers, threads = iter(pipeline(Echo(20), 4, num_workers=2)), iter(pipeline(Echo(20), 4))
    assert_same(take(workers, 2), take(threads, 2))
    pid = processes_of(workers)[0].pid
    os.kill(pid, signal.SIGKILL)
    assert_same(take(workers, 8), take(threads, 8))
    assert f"process {pid}, which reads data, was ended by SIGKILL; others go on" in caplog.text
    workers.close()


@pytest.mark.slow
def test_batches_go_on_where_a_worker_hangs(caplog, monkeypatch):
    workers, threads = iter(pipeline(Echo(20), 4, num_workers=1)), iter(pipeline(Echo(20), 4))
    assert_same(take(workers, 2), take(threads, 2))
    former = processes_of(workers)[0]
    os.kill(former.pid, signal.SIGSTOP)
    monkeypatch.setattr(workers_module, "HANGS_SECONDS", 30)  # others need some to start
    assert_same(take(workers, 8), take(threads, 8))
    assert "no batch came from the processes that read data for 3" in caplog.text
    assert not former.is_alive()
    workers.close()


class Deadly(Echo):
    """Who reads its record 8 dies."""

    def read_batch(self, indices, flip, crop=None):
        if 8 in indices:
            os._exit(9)
        return super().read_batch(indices, flip, crop)


@pytest.mark.slow
def test_workers_that_die_at_one_batch_end_it(caplog):
    deadly = iter(pipeline(Deadly(20), 4, num_workers=1, shuffle=False))
    said = r"^batch \d: process \d+, which reads data, ended with status 9, 3 times in a row; see"
    with pytest.raises(ValueError, match=said):
        take(deadly, 3)  # read ahead, so perhaps before those that could be read
    assert caplog.text.count("others go on at this batch") >= 2
