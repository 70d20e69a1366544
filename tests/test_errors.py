"""Wording of messages that several packages share."""

import pytest

from lightningdit_jax.errors import counted, difference

OLD = {"seed": 0, "flow": {"path": "gvp", "weights": [1, 2]}, "names": list(range(9)), "same": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"seed": 7}, "seed 0, now 7"),
        ({"flow": {"path": "vp", "weights": [1, 2]}}, "flow path gvp, now vp"),
        ({"flow": None}, "flow {'path': 'gvp', 'weights': [1, 2]}, now None"),
        ({"names": [1], "new": 2}, "names [0, 1, 2, ... 9 values], now [1]; new None, now 2"),
    ],
)
def test_what_differs_is_named_and_nothing_else(changes, said):
    assert difference(OLD, OLD | changes) == said


def test_values_alone_and_other_words():
    assert difference(3, 4) == "3, now 4"
    assert difference({"a": 1}, {"a": 2}, "{} there and {} here") == "a 1 there and 2 here"


def test_one_is_not_many():
    said = [counted(n, "image") for n in (0, 1, 2, 1000)]
    assert said == ["0 images", "1 image", "2 images", "1,000 images"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
