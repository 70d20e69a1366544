"""How long a step is expected to take on devices of a kind: what plans are ranked by.

Arithmetic at the share of the peak that compiled programs reach, a pass over the state at the
memory's bandwidth, and collectives over the links between the devices. Where the devices are not
known only the arithmetic counts, in units of its own.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.parallel.chips import chip_name
from lightningdit_jax.parallel.collectives import Collective
from lightningdit_jax.parallel.links import Network
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.planning.hardware import Hardware

# Of the peak, that a generator's step reaches apart from communication and the optimizer's pass,
# with many tokens on a device; docs/performance.md has the programs.
_UTILIZATION = {"v4": 0.53, "v5e": 0.62, "v5p": 0.63, "v6e": 0.32, "tpu7x": 0.35, "h100": 0.44}
_OTHERS = 0.4
_UNKNOWN_FLOPS = 1e14
# Tokens of a device at which it reaches half of that.
_HALF_TOKENS = 450
# Of collectives, that nothing runs beside.
_EXPOSED = 0.65
# The state is read, with as many gradients as parameters, and written.
_STATE_PASSES = 2.25


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of the devices of a plan."""

    hardware: Hardware

    def arithmetic(self, flops: float, tokens: float) -> float:
        """Seconds of products. flops: of each device; tokens: that it has at a time."""
        name, chip = chip_name(self.hardware.devices[0]), self.hardware.chip
        reached = _UTILIZATION.get(name or "", _OTHERS)
        flops_per_second = reached * chip.peak_flops if chip else _UNKNOWN_FLOPS
        return flops / flops_per_second * (1 + _HALF_TOKENS / tokens)

    def update(self, state_bytes: float) -> float:
        """Seconds of the optimizer's pass. state_bytes: of each device."""
        chip = self.hardware.chip
        return _STATE_PASSES * state_bytes / chip.bandwidth if chip else 0.0

    def communication(self, sizes: Mapping[str, int], weight_bytes: float) -> float:
        """Exposed seconds of one part of a step: weights gathered twice, gradients summed.

        sizes: of a mesh. weight_bytes: of all parameters, as they travel.
        """
        mesh = make_mesh(**sizes, devices=self.hardware.devices)
        network = Network.of_mesh(mesh)
        if network is None:
            return 0.0
        fsdp, data = sizes["fsdp"], sizes["data"]
        ids = np.arange(mesh.size).reshape(data, fsdp, -1)
        seconds = 0.0
        if fsdp > 1:
            groups = np.moveaxis(ids, 1, -1).reshape(-1, fsdp)
            seconds += 2 * network.seconds(Collective("all-gather", weight_bytes, groups))
            seconds += network.seconds(Collective("all-reduce", weight_bytes, groups))
        if data > 1:
            groups = np.moveaxis(ids, 0, -1).reshape(-1, data)
            seconds += network.seconds(Collective("all-reduce", weight_bytes / fsdp, groups))
        return _EXPOSED * seconds
