"""Which TPU slices exist: dimensions and sizes per chip. Asks no compiler.

libtpu describes slices that nobody can have (v5e in three dimensions) and aborts the process at
those beyond a pod.
"""

import itertools
import math

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.parallel.chips import GPUS

Shape = tuple[int, ...]

# Parts of a cube of 4x4x4; cloud.google.com/tpu/docs/v4, /v5p and /tpu7x.
_PARTS: tuple[Shape, ...] = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
# cloud.google.com/tpu/docs/v5e and /v6e: planes, a pod is 16x16.
_PLANES: tuple[Shape, ...] = (
    *((1, 1), (2, 2), (2, 4), (4, 4)),
    *((4, 8), (8, 8), (8, 16), (16, 16)),
)


def _cuboids(largest: int) -> tuple[Shape, ...]:
    """Parts of a cube of 4x4x4, and cuboids of such cubes with rising sides.

    largest: chips of a slice. cloud.google.com/tpu/docs/types-topologies: AxBxC with A <= B <= C,
    all at most 4 or multiples of 4.
    """
    cubes = (
        (a, b, c)
        for a in range(4, largest // 16 + 1, 4)
        for b in range(a, math.isqrt(largest // a) + 1, 4)
        for c in range(b, largest // (a * b) + 1, 4)
    )
    return (*_PARTS, *cubes)


# A v4 pod has 4,096 chips, one of tpu7x 9,216; of a v5p pod's 8,960 one slice has 6,144 at most.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "v4": _cuboids(4096),
    "v5e": _PLANES,
    "v5p": _cuboids(6144),
    "v6e": _PLANES,
    "tpu7x": _cuboids(9216),
}


def slice_shape(topology: str) -> tuple[str, Shape]:
    """Chip and sides of a slice's name: "v5e:4x8" -> ("v5e", (4, 8)), 32 chips.

    Raises ValueError for an unknown chip, and for a slice that does not exist, naming the nearest.
    """
    chip, _, sides = topology.partition(":")
    if chip not in SHAPES:
        raise ValueError(unknown_name("chip in --topology", chip, (*SHAPES, *GPUS)))
    words = sides.split("x")
    if not all(word.isascii() and word.isdigit() and 0 < len(word) < 6 for word in words):
        raise ValueError(
            f"--topology={topology} is no slice; expected a chip and its sides, such as "
            f"{chip}:{_sides(SHAPES[chip][3])}"
        )
    shape = tuple(map(int, words))
    if shape not in SHAPES[chip]:
        nearest = min(SHAPES[chip], key=lambda known: _distance(known, shape))
        raise ValueError(
            f"--topology={topology} does not exist: {_rule(chip)}; the nearest is "
            f"{chip}:{_sides(nearest)}"
        )
    return chip, shape


def _rule(chip: str) -> str:
    flat = SHAPES[chip] is _PLANES
    listed = ", ".join(_sides(shape) for shape in (_PLANES if flat else _PARTS))
    if flat:
        return f"slices of {chip} are {listed}"
    largest = max(map(math.prod, SHAPES[chip]))
    return (
        f"slices of {chip} are {listed}, or have three rising sides that are multiples of 4, and "
        f"at most {largest:,} chips"
    )


def _distance(known: Shape, asked: Shape) -> tuple[float, float]:
    """First in the number of chips, then in the sides."""
    chips = abs(math.log(math.prod(known)) - math.log(max(1, math.prod(asked))))
    pairs = itertools.zip_longest(sorted(known), sorted(asked), fillvalue=1)
    return chips, sum(abs(math.log(a) - math.log(max(1, b))) for a, b in pairs)


def _sides(shape: Shape) -> str:
    return "x".join(map(str, shape))
