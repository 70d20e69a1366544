"""What the 1,000 classes of ImageNet (ILSVRC 2012) are called, in the order of their numbers.

imagenet_classes.txt has a line each: WordNet's identifier, which is the name of the class's folder,
and WordNet's words for it. Taken from timm 1.0.31 (data/_info/imagenet_synsets.txt and
imagenet_synset_to_lemma.txt; Apache-2.0, Ross Wightman); the words are Princeton University's
(WordNet 3.0 license).
"""

import functools
import pathlib
from collections.abc import Sequence

NUM_CLASSES = 1000


@functools.cache
def imagenet_names() -> dict[str, str]:
    """Words by identifier, "goldfish, Carassius auratus" by "n01443537", in order."""
    text = (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text("utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def in_words(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, in words where all of them are identifiers of ImageNet's classes."""
    words = imagenet_names() if names and names[0].startswith("n0") else {}
    return tuple(words[name] for name in names) if {*names} <= {*words} else tuple(names)
