"""Which TPU slices exist; what is refused never reaches the compiler."""

import math
import sys

import pytest

from lightningdit_jax.parallel.chips import TPUS
from lightningdit_jax.parallel.slice_shapes import SHAPES, slice_shape
from lightningdit_jax.parallel.topology import open_slice


@pytest.mark.parametrize(
    ("topology", "chips"),
    [
        *(("v5e:1x1", 1), ("v5e:2x2", 4), ("v5e:2x4", 8), ("v5e:4x4", 16), ("v5e:16x16", 256)),
        *(("v6e:1x1", 1), ("v6e:4x8", 32), ("v6e:8x16", 128), ("v6e:16x16", 256)),
        *(("v4:2x2x1", 4), ("v4:2x2x2", 8), ("v4:2x2x4", 16), ("v4:2x4x4", 32), ("v4:4x4x4", 64)),
        *(("v4:12x12x24", 3456), ("v4:8x16x16", 2048), ("v4:16x16x16", 4096)),
        *(("v5p:2x2x1", 4), ("v5p:4x4x8", 128), ("v5p:8x16x16", 2048), ("v5p:16x16x24", 6144)),
    ],
)
def test_slices_that_exist(topology, chips):
    chip, shape = slice_shape(topology)
    assert chip == topology.partition(":")[0] and math.prod(shape) == chips


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e:2x2x2", r"v5e:2x2x2 does not exist: slices of v5e are .*; the nearest is v5e:2x4"),
        ("v6e:2x2x1", "the nearest is v6e:2x2"),
        ("v6e:4x4x4", "the nearest is v6e:8x8"),
        ("v5e:32x16", "the nearest is v5e:16x16"),
        ("v5e:1x2", "the nearest is v5e:1x1"),
        ("v5e:4x2", "the nearest is v5e:2x4"),
        ("v5e:16", "the nearest is v5e:4x4"),
        ("v5e:0x4", "the nearest is v5e:"),
        ("v4:4x4", "rising sides .* at most 4,096 chips; the nearest is v4:2x2x4"),
        ("v4:4x2x2", "the nearest is v4:2x2x4"),
        ("v4:1x1x1", "the nearest is v4:2x2x1"),
        ("v4:4x4x6", "the nearest is v4:4x4x"),
        ("v4:16x16x32", "at most 4,096 chips; the nearest is v4:8x16x32"),
        ("v5p:16x24x24", "at most 6,144 chips; the nearest is v5p:"),
        ("v5p:99999x99999x99999", "the nearest is v5p:"),
        ("v5e", "v5e is no slice; expected a chip and its sides, such as v5e:4x4"),
        ("v5e:", "is no slice"),
        ("v5e:axb", "is no slice"),
        ("v5e:4x-4", "is no slice"),
        ("v5e:4x4x", "is no slice"),
        ("v5e:٤x٤", "is no slice"),
        ("v5e:" + "9" * 9, "is no slice"),
        ("v5:4x4", "unknown chip in --topology 'v5'"),
        ("v7x:2x2x1", "unknown chip in --topology 'v7x'"),
        ("", "unknown chip in --topology ''"),
    ],
)
def test_slices_that_do_not_exist_are_refused_in_one_line(topology, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)  # importing it would raise
    with pytest.raises(ValueError, match=message) as refused:
        open_slice(topology)
    assert "\n" not in str(refused.value)


def test_every_chip_has_its_shapes():
    assert SHAPES.keys() == TPUS.keys()
    for chip, shapes in SHAPES.items():
        assert len(set(shapes)) == len(shapes)
        for shape in shapes:
            assert slice_shape(f"{chip}:{'x'.join(map(str, shape))}") == (chip, shape)


def test_a_single_chip_is_described():
    pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra `tpu`")
    for topology in ("v5e:1x1", "v6e:1x1"):
        [device] = open_slice(topology).devices
        assert device.device_kind.startswith("TPU v")
