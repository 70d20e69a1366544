"""Devices that are not there, for plans: what is asked of them and nothing else."""

import dataclasses
import itertools


@dataclasses.dataclass(frozen=True)
class Device:
    """One of them."""

    id: int
    platform: str
    device_kind: str
    coords: tuple[int, ...] = (0, 0, 0)
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0
    bytes_limit: int = 0
    compute_capability: str = "9.0"

    def memory_stats(self):
        return {"bytes_limit": self.bytes_limit} if self.bytes_limit else None


def tpus(kind, *sides, slices=1):
    """Chips of one or more slices, in the order of their coordinates."""
    places = [coords[::-1] for coords in itertools.product(*map(range, reversed(sides)))]
    ids = itertools.count()
    return [
        Device(next(ids), "tpu", kind, (*coords, 0)[:3], slice_index=index, process_index=index)
        for index in range(slices)
        for coords in places
    ]


def gpus(kind, count, gibibytes, nodes=1):
    """Cards of nodes, as many on each, with what JAX says that it may allocate."""
    return [
        Device(
            i,
            "gpu",
            kind,
            process_index=i * nodes // count,
            slice_index=i * nodes // count,
            bytes_limit=gibibytes * 2**30,
        )
        for i in range(count)
    ]
