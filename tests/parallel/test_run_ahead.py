"""Running ahead: what is dispatched before what is read, and what is still held then."""

import gc
import weakref

import pytest

from lightningdit_jax.parallel.run_ahead import RunAhead, run_ahead


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [
        (0, "s0 f0 s1 f1 s2 f2 s3 f3"),
        (1, "s0 s1 f0 s2 f1 s3 f2 f3"),
        (2, "s0 s1 s2 f0 s3 f1 f2 f3"),
        (9, "s0 s1 s2 s3 f0 f1 f2 f3"),
    ],
)
def test_results_come_in_order_and_so_many_dispatches_late(depth, wanted):
    events = []

    def started():
        for k in range(4):
            events.append(f"s{k}")
            yield k

    def finish(k):
        events.append(f"f{k}")
        return k * k

    assert list(run_ahead(started(), finish, depth)) == [0, 1, 4, 9]
    assert " ".join(events) == wanted


class Batch:
    """Stands for arrays on a device."""


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_finished_is_free_before_the_next_dispatch(depth):
    made, most = [], 0
    gc.collect()
    gc.freeze()  # what other tests left is not gone through again and again

    def alive():
        gc.collect()
        return sum(ref() is not None for ref in made)

    def started():
        nonlocal most
        for _ in range(6):
            most = max(most, alive())
            batch = Batch()
            made.append(weakref.ref(batch))
            yield batch
            del batch

    for _ in run_ahead(started(), lambda batch: None, depth):
        pass
    gc.unfreeze()
    assert most == depth and alive() == 0


def test_work_of_a_loop_is_taken_out_when_it_is_due():
    ahead, taken = RunAhead(2), []
    for k in range(4):
        ahead.add(k)
        taken.append(list(ahead.due()))
    assert taken == [[], [], [0], [1]] and list(ahead) == [2, 3]
    assert list(ahead.due(everything=True)) == [2, 3] and list(ahead) == []
