"""What is known of chips, and of which devices."""

import types

import pytest

from lightningdit_jax.parallel.chips import CHIPS, GPUS, chip_of


def device(kind):
    return types.SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
    ],
)
def test_devices_are_known_by_their_kind(kind, name):
    assert chip_of(device(kind)) is CHIPS[name]


@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v2"]
)
def test_other_devices_are_not_taken_for_them(kind):
    assert chip_of(device(kind)) is None


@pytest.mark.parametrize(
    ("name", "cores", "per_clock", "clock"),
    [
        # Products a clock of a core's four matrix units (NVIDIA's white papers of Hopper, Ampere
        # and Ada), at the clock that data sheets count with; the highest may be above it.
        ("h100", 132, 2 * 4 * 512, 1.83e9),
        ("h200", 132, 2 * 4 * 512, 1.83e9),
        ("a100", 108, 2 * 4 * 256, 1.41e9),
        ("l4", 58, 2 * 4 * 128, 2.04e9),
        ("a10g", 80, 2 * 4 * 64, 1.71e9),
        ("rtx4090", 128, 2 * 4 * 64, 2.52e9),
    ],
)
def test_peaks_are_those_of_the_matrix_units(name, cores, per_clock, clock):
    assert GPUS[name].peak_flops == pytest.approx(cores * per_clock * clock, rel=0.02)
    assert GPUS[name].clock >= clock
