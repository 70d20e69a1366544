"""Classes by number, by name and by one of several words; the 1,000 of ImageNet."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lightningdit_jax.assembly.description import class_names_of
from lightningdit_jax.data.class_names import class_line, class_number, short_names, split_list
from lightningdit_jax.data.imagenet_names import imagenet_names, in_words
from lightningdit_jax.inference.pictures import image_grid
from lightningdit_jax.inference.sampling.options import choose_labels

WORDS = tuple(imagenet_names().values())
IDENTIFIERS = tuple(imagenet_names())
# As the release's inference.py and everybody's examples have them.
KNOWN = {
    "tench": 0,
    "goldfish": 1,
    "great white shark": 2,
    "loggerhead": 33,
    "macaw": 88,
    "golden retriever": 207,
    "Arctic fox": 279,
    "otter": 360,
    "red panda": 387,
    "lesser panda": 387,
    "giant panda": 388,
    "geyser": 974,
    "valley": 979,
    "volcano": 980,
    "toilet paper": 999,
}


def choose(text, names):
    return choose_labels(text, text.count(",") + 1, 1000, 0, names).tolist()


@pytest.mark.parametrize("names", [WORDS, IDENTIFIERS], ids=["words", "folders"])
def test_imagenets_classes_have_the_numbers_that_are_known(names):
    """Whether a checkpoint names them in words or after the folders of its training set."""
    assert len(names) == len({*IDENTIFIERS}) == 1000 and list(IDENTIFIERS) == sorted(IDENTIFIERS)
    assert {name: choose(name, names)[0] for name in KNOWN} == KNOWN
    assert choose('goldfish,"golden retriever", 5', names) == [1, 207, 5]
    assert choose_labels('"tench, Tinca tinca",goldfish', 2, 1000, 0, names).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "numbers"), [("crane", (134, 517)), ("maillot", (638, 639)), ("panda", (387, 388))]
)
def test_a_name_of_several_classes_asks_for_the_number(name, numbers):
    with pytest.raises(
        ValueError, match=f"several classes are called '{name}'; give a number: "
    ) as e:
        choose(name, WORDS)
    assert all(f"{number} (" in str(e.value) for number in numbers)
    assert class_number("sample.labels", "name:maillot", WORDS, "") == 638  # the whole of its name
    with pytest.raises(ValueError, match=r"134 .* or 517"):
        choose("name:crane", WORDS)


def test_names_of_ones_own_are_taken_as_they_are():
    names = ("cats, dogs", "birds", "n01440764")
    assert in_words(names) == names
    assert choose_labels('"cats, dogs",birds', 2, 3, 0, names).tolist() == [0, 1]
    assert choose_labels("dogs", 1, 3, 0, names).tolist() == [0]
    assert class_line(names) == '3 classes: "cats, dogs", birds, n01440764'
    assert in_words(("n01440764", "n01443537")) == (WORDS[0], WORDS[1])  # a subset of ImageNet


@pytest.mark.parametrize("text", ['"cat', '"a"b', '"cat","'])
def test_quotes_that_do_not_end_are_refused(text):
    with pytest.raises(ValueError, match=r"sample\.labels is .*a name with a comma in double quo"):
        split_list("sample.labels", text)
    with pytest.raises(ValueError, match="expected"):
        choose_labels("", 1, 3, 0)


def test_converted_weights_of_1000_classes_are_imagenets():
    meta = {"kind": "lightningdit", "architecture": {"num_classes": 1000}, "source": {}}
    assert class_names_of(meta) == WORDS
    assert class_names_of({**meta, "class_names": ["cat"]}) == ("cat",)
    for other in (
        {"source": {}, "architecture": {"num_classes": 10}},
        {"architecture": {"num_classes": 1000}},
    ):
        assert class_names_of({"kind": "lightningdit", **other}) == ()


def test_counts_stand_beside_names():
    assert class_line(["city", "sea"], [90, 1183]) == "2 classes: city 90, sea 1,183"
    many = [f"n{i:03d}" for i in range(1000)]
    counts = [1300] * 998 + [732, 9]
    assert class_line(many, counts) == (
        "1,000 classes: n000 1,300, n001 1,300, n002 1,300, ..., n999 9 (9 to 1,300 each)"
    )


def test_names_stand_below_the_pictures():
    """Each picture and each line of text where they belong; without names the grid of before."""
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    captions = short_names(["goldfish, Carassius auratus", "océan", "an endless name of a class"])
    grid = image_grid(images, 2, captions=captions)
    assert grid.shape == (2 * (64 + 12 + 2) + 2, 2 * (64 + 2) + 2, 3)
    font = ImageFont.load_default()
    for i, caption in enumerate([captions[0], "ocean", captions[2]]):
        y, x = 2 + i // 2 * 78, 2 + i % 2 * 66
        np.testing.assert_array_equal(grid[y : y + 64, x : x + 64], images[i])
        line = Image.new("RGB", (64, 12), (255, 255, 255))
        shown = next(n for n in range(len(caption), 0, -1) if font.getlength(caption[:n]) <= 64)
        ImageDraw.Draw(line).text((0, 0), caption[:shown], (0, 0, 0), font)
        below = grid[y + 64 : y + 76, x : x + 64]
        np.testing.assert_array_equal(below, np.asarray(line))
        assert (below < 128).any()
    np.testing.assert_array_equal(image_grid(images, 2)[:66], grid[:66])
    assert image_grid(images, 2).shape == (2 * 66 + 2, 2 * 66 + 2, 3)
