"""How long a collective takes on the links between devices, by public bandwidths."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from lightningdit_jax.parallel.chips import GPUS, chip_name
from lightningdit_jax.parallel.collectives import Collective
from lightningdit_jax.parallel.slice_shapes import SHAPES

# A ring gathers or scatters in one round of n - 1 parts, and sums by scattering and gathering.
_ROUNDS = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}


@dataclasses.dataclass(frozen=True)
class Links:
    """The network of a kind of chip, bytes per second and one way.

    link: of one link to a neighbor. ring_side: a side of the slice closes into a ring where it is
    as long as this in planes (v5e, v6e), or where all sides are multiples of it (the others). dcn:
    into the data-center network, per chip. cores: devices of a chip, which share its links;
    between_cores: from one to the others. GPUs of a node are joined as the devices of a chip are,
    but each has its own way into the network.
    """

    link: float
    ring_side: int
    dcn: float
    cores: int = 1
    between_cores: float = math.inf


def _node(between: float, dcn: float = math.inf) -> Links:
    return Links(math.inf, 1, dcn, between_cores=between)


# Links per chip: 4 on v5e and v6e, 6 on the others; cloud.google.com/tpu/docs has both directions
# of all of them together: v4 600 GB/s, v5e 400, v5p 1,200, v6e 800, tpu7x 1,200 (its two devices
# share them, and are joined by a link six times as fast). The data-center network: v5e 6.4 Tbit/s
# a pod of 256, v5p 50 Gbit/s a chip, v6e and tpu7x 100; v4 is taken for v5p's.
LINKS = {
    "v4": Links(50e9, 4, 6.25e9),
    "v5e": Links(50e9, 16, 3.125e9),
    "v5p": Links(100e9, 4, 6.25e9),
    "v6e": Links(100e9, 16, 12.5e9),
    "tpu7x": Links(100e9, 4, 12.5e9, cores=2, between_cores=600e9),
    # NVIDIA's data sheets: NVLink has 900 GB/s both ways together on H100 and H200, 600 on A100; a
    # GPU of DGX H100 has 400 Gbit/s of InfiniBand, of DGX A100 200. The others have PCIe 4.0 x16.
    "h100": _node(450e9, 50e9),
    "h200": _node(450e9, 50e9),
    "a100": _node(300e9, 25e9),
    "l4": _node(32e9),
    "a10g": _node(32e9),
    "rtx4090": _node(32e9),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """Where the devices of a mesh are, in its order, and what joins them.

    sides: of a slice. coordinates: of each device's chip, int [devices, dimensions]. slices: the
    slice of each device, int [devices].
    """

    links: Links
    sides: tuple[int, ...]
    coordinates: np.ndarray
    slices: np.ndarray

    @classmethod
    def of_gpus(cls, links: Links, devices: Sequence) -> "Network":
        """devices: of a mesh, in its order. A node is a slice of one chip with many cores."""
        slices = [getattr(device, "slice_index", 0) for device in devices]
        return cls(links, (1,), np.zeros((len(slices), 1), int), np.array(slices))

    @classmethod
    def of_devices(cls, links: Links, sides: Sequence[int], devices: Sequence) -> "Network":
        """devices: of a mesh, in its order."""
        coordinates = [tuple(device.coords)[: len(sides)] for device in devices]
        slices = [getattr(device, "slice_index", 0) for device in devices]
        return cls(links, tuple(sides), np.array(coordinates), np.array(slices))

    @classmethod
    def of_mesh(cls, mesh: Mesh) -> "Network | None":
        """Of a mesh whose devices say where they are; None where links are not known."""
        devices = list(mesh.devices.flat)
        name = chip_name(devices[0])
        if name not in LINKS:
            return None
        if name in GPUS:
            return cls.of_gpus(LINKS[name], devices)
        dimensions = len(SHAPES[name][0])
        farthest = np.max([device.coords[:dimensions] for device in devices], axis=0)
        sides = [int(side) + 1 for side in farthest]
        return cls.of_devices(LINKS[name], sides, devices)

    def is_ring(self, dimension: int) -> bool:
        """Whether a whole side of a slice closes into a ring."""
        if len(self.sides) == 2:
            return self.sides[dimension] == self.links.ring_side
        return all(side % self.links.ring_side == 0 for side in self.sides)

    def seconds(self, collective: Collective) -> float:
        """Of the slowest of its groups, all of which work at once; latency is left out.

        What a device has to receive comes over the links that its worst placed chip has: one for
        each dimension that the group spans, two where that is a ring. Links that groups share are
        divided among them. Between slices each device sends its part over the data-center network.
        """
        if collective.kind == "collective-permute":
            return self._permute_seconds(collective)
        return max(self._group_seconds(collective, group) for group in collective.groups)

    def _group_seconds(self, collective: Collective, group: np.ndarray) -> float:
        size, slices = collective.whole_bytes, np.unique(self.slices[group])
        inside = [group[self.slices[group] == s] for s in slices]
        each = max(map(len, inside))
        seconds = 0.0
        if each > 1:
            seconds += self._slice_seconds(collective.kind, size, inside[0])
        if len(slices) > 1:
            rounds = _ROUNDS.get(collective.kind, 1)
            part = size / each * (len(slices) - 1) / len(slices)
            seconds += rounds * part * self.links.cores / self.links.dcn
        return seconds

    def _slice_seconds(self, kind: str, size: float, group: np.ndarray) -> float:
        places = np.unique(self.coordinates[group], axis=0)
        if len(places) == 1:
            received = _ROUNDS.get(kind, 1) * size * (len(group) - 1) / len(group)
            return received / self.links.between_cores
        extents = places.max(0) - places.min(0) + 1
        spanned = [d for d, extent in enumerate(extents) if extent > 1]
        ways = {d: 2 if self.is_ring(d) and extents[d] == self.sides[d] else 1 for d in spanned}
        # Groups that lie between each other's chips share the links.
        share = len(places) / math.prod(extents)
        if kind == "all-to-all":  # half of everything crosses the middle of the longest side
            across = max(extents[d] / (4 * ways[d]) for d in spanned)
            return size * self.links.cores * across / (share * self.links.link)
        received = _ROUNDS[kind] * size * (len(group) - 1) / len(group)
        bandwidth = sum(ways.values()) * share * self.links.link / self.links.cores
        return received / bandwidth

    def _permute_seconds(self, collective: Collective) -> float:
        """By the most links that a message crosses, each of which carries as many messages."""
        senders, receivers = collective.groups.T
        if (self.slices[senders] != self.slices[receivers]).any():
            return collective.whole_bytes * self.links.cores / self.links.dcn
        steps = np.abs(self.coordinates[senders] - self.coordinates[receivers])
        for d, side in enumerate(self.sides):
            if self.is_ring(d):
                steps[:, d] = np.minimum(steps[:, d], side - steps[:, d])
        hops = steps.sum(1).max()
        if hops == 0:
            return collective.whole_bytes / self.links.between_cores
        return collective.whole_bytes * self.links.cores * hops / self.links.link
