"""Time with communication, of programs small enough to count by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from lightningdit_jax.parallel.collectives import Collective
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.links import LINKS, Network
from lightningdit_jax.parallel.timeline import program_timeline

CLOCK = 1e9


def network(chip, *sides, slices=1, cores=1):
    """A slice whose devices are in the order of their coordinates, the last one fastest."""
    devices = [
        SimpleNamespace(coords=coords, slice_index=index)
        for index in range(slices)
        for coords in itertools.product(*map(range, sides))
        for _ in range(cores)
    ]
    return Network.of_devices(LINKS[chip], sides, devices)


def gpus(chip, number, nodes=1):
    devices = [SimpleNamespace(slice_index=node) for node in range(nodes) for _ in range(number)]
    return Network.of_gpus(LINKS[chip], devices)


def collective(kind, megabytes, groups):
    return Collective(kind, megabytes * 1e6, np.array(groups))


ALL_16 = [range(16)]
COLUMNS = np.arange(16).reshape(4, 4)  # devices that differ in the last coordinate


@pytest.mark.parametrize(
    ("net", "what", "milliseconds"),
    [
        # 15/16 of 160 MB come over the two links of a corner chip, 50 GB/s each.
        (network("v5e", 4, 4), collective("all-gather", 160, ALL_16), 150 / 100),
        # A sum is scattered and gathered.
        (network("v5e", 4, 4), collective("all-reduce", 160, ALL_16), 2 * 150 / 100),
        # Along one side there is one link.
        (network("v5e", 4, 4), collective("all-gather", 160, COLUMNS), 120 / 50),
        # Every other chip of a line of four: two groups share its links.
        (network("v5e", 2, 4), collective("all-gather", 160, [[0, 2], [1, 3]]), 80 / (50 * 2 / 3)),
        # Sides of 16 are rings: two links each.
        (
            network("v5e", 16, 16),
            collective("reduce-scatter", 160, np.arange(256).reshape(16, 16)),
            150 / 100,
        ),
        (network("v6e", 4, 4), collective("all-gather", 160, ALL_16), 150 / 200),
        (network("v4", 2, 2, 4), collective("all-gather", 160, ALL_16), 150 / 150),
        (network("v5p", 4, 4, 4), collective("all-gather", 64, [range(64)]), 63 / 600),
        # Two devices of a chip share its links.
        (
            network("tpu7x", 2, 2, 1, cores=2),
            collective("all-gather", 160, [range(8)]),
            140 / (200 / 2),
        ),
        # Half of what 16 devices hold, 160 MB each, crosses the middle over four links.
        (network("v5e", 4, 4), collective("all-to-all", 160, ALL_16), 16 * 160 / 4 / (4 * 50)),
        # Neighbors in the order of the mesh: at the end of a row a message takes four links.
        (
            network("v5e", 4, 4),
            collective("collective-permute", 10, [[i, i + 1] for i in range(15)]),
            10 * 4 / 50,
        ),
        # Two slices: gathered within each, and its 1/16 of the other half comes to each chip.
        (
            network("v5e", 4, 4, slices=2),
            collective("all-gather", 160, [range(32)]),
            150 / 100 + 160 / 16 / 2 / 3.125,
        ),
        # Seven of eight parts over a GPU's own NVLink; other groups of the node do not matter.
        (gpus("h100", 8), collective("all-gather", 80, [range(8)]), 70 / 450),
        (gpus("a100", 8), collective("all-reduce", 80, np.arange(8).reshape(2, 4)), 2 * 60 / 300),
        (gpus("h100", 8), collective("all-to-all", 80, [range(8)]), 70 / 450),
        (gpus("h100", 8), collective("collective-permute", 9, [[0, 1], [1, 0]]), 9 / 450),
        # Two nodes: gathered within each, and each GPU's eighth of the other half by InfiniBand.
        (
            gpus("h100", 8, nodes=2),
            collective("all-gather", 160, [range(16)]),
            140 / 450 + 160 / 8 / 2 / 50,
        ),
        # The same device of each slice.
        (
            network("v5e", 4, 4, slices=2),
            collective("all-reduce", 160, [[i, i + 16] for i in range(16)]),
            2 * 160 / 2 / 3.125,
        ),
    ],
)
def test_a_collective_takes_what_its_links_need(net, what, milliseconds):
    assert net.seconds(what) * 1e3 == pytest.approx(milliseconds)


HEAD = "HloModule step, is_scheduled=true, num_partitions=16\n"
# 16 x 4 MiB in float32, gathered from all devices of v5e:4x4: 15/16 of it over 100 GB/s, in ms.
GATHER = 62.91456 / 100
GROUPS = "channel_id=1, replica_groups=mesh['a'=4,'b'=4] {'a','b'}"

WAITING = (
    HEAD
    + f"""
ENTRY %main (x: f32[1048576]) -> f32[16777216] {{
  %x = f32[1048576]{{0}} parameter(0)
  %work = f32[1048576]{{0}} negate(%x), backend_config={{"estimated_cycles":"500000"}}
  ROOT %g = f32[16777216]{{0}} all-gather(%work), {GROUPS}, dimensions={{0}}
}}
"""
)

OVERLAPPED = (
    HEAD
    + f"""
ENTRY %main (x: f32[1048576]) -> f32[16777216] {{
  %x = f32[1048576]{{0}} parameter(0)
  %s = (f32[1048576]{{0}}, f32[16777216]{{0}}) all-gather-start(%x), {GROUPS}, dimensions={{0}}
  %work = f32[1048576]{{0}} negate(%x), backend_config={{"estimated_cycles":"500000"}}
  ROOT %g = f32[16777216]{{0}} all-gather-done(%s)
}}
"""
)

# The second kernel carries the collective, the one between does not; both run three times.
CARRIED = (
    HEAD
    + f"""
%begin (p: f32[1048576]) -> f32[16777216] {{
  %p = f32[1048576]{{0}} parameter(0)
  ROOT %g = f32[16777216]{{0}} all-gather(%p), {GROUPS}, dimensions={{0}}
}}

%meanwhile (p.1: f32[1048576]) -> f32[16777216] {{
  %p.1 = f32[1048576]{{0}} parameter(0)
  ROOT %g.1 = f32[16777216]{{0}} all-gather(%p.1), {GROUPS}, dimensions={{0}}
}}

%end (p.2: f32[1048576]) -> f32[16777216] {{
  %p.2 = f32[1048576]{{0}} parameter(0)
  ROOT %g.2 = f32[16777216]{{0}} all-gather(%p.2), {GROUPS}, dimensions={{0}}
}}

%body (x: f32[1048576]) -> f32[1048576] {{
  %x = f32[1048576]{{0}} parameter(0)
  %start = f32[16777216]{{0}} fusion(%x), kind=kCustom, calls=%begin
  %other = f32[1048576]{{0}} negate(%x), backend_config={{"estimated_cycles":"900000"}}
  %work = f32[16777216]{{0}} fusion(%x), calls=%meanwhile, y={{"estimated_cycles":"200000"}}
  ROOT %done = f32[16777216]{{0}} fusion(%x), kind=kCustom, calls=%end
}}

%condition (x.1: f32[1048576]) -> pred[] {{
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%limit, %limit), direction=LT
}}

ENTRY %main (x.2: f32[1048576]) -> f32[1048576] {{
  %x.2 = f32[1048576]{{0}} parameter(0)
  ROOT %loop = f32[1048576]{{0}} while(%x.2), condition=%condition, body=%body
}}
"""
)

# On tpu7x another core of the chip runs the collective.
CALLED = (
    HEAD
    + f"""
%called (p: f32[1048576]) -> f32[16777216] {{
  %p = f32[1048576]{{0}} parameter(0)
  ROOT %g = f32[16777216]{{0}} fusion(%p), kind=kCustom, calls=%inner
}}

%inner (q: f32[1048576]) -> f32[16777216] {{
  %q = f32[1048576]{{0}} parameter(0)
  ROOT %h = f32[16777216]{{0}} all-gather(%q), {GROUPS}, dimensions={{0}}
}}

ENTRY %main (x: f32[1048576]) -> f32[16777216] {{
  %x = f32[1048576]{{0}} parameter(0)
  %s = ((f32[1048576]{{0}}, token[]), f32[16777216]{{0}}) call-start(%x), to_apply=%called
  %work = f32[1048576]{{0}} negate(%x), backend_config={{"estimated_cycles":"9000000"}}
  ROOT %g.1 = f32[16777216]{{0}} call-done(%s)
}}
"""
)


@pytest.mark.parametrize(
    ("text", "arithmetic", "communication", "exposed"),
    [
        (WAITING, 0.5, GATHER, GATHER),
        (OVERLAPPED, 0.5, GATHER, GATHER - 0.5),
        (CARRIED, 3 * 1.1, 3 * GATHER, 3 * (GATHER - 0.2)),
        (CALLED, 9.0, GATHER, 0.0),
    ],
    ids=["waiting", "overlapped", "carried by kernels", "on another core"],
)
def test_what_no_arithmetic_runs_beside_is_exposed(text, arithmetic, communication, exposed):
    net = network("v5e", 4, 4)
    timeline = program_timeline(Module.parse(text), net, lambda i: (i.cycles or 0) / CLOCK)
    found = np.array([timeline.arithmetic, timeline.communication, timeline.exposed])
    np.testing.assert_allclose(found * 1e3, [arithmetic, communication, exposed], atol=1e-12)
    assert timeline.step == timeline.arithmetic + timeline.exposed
