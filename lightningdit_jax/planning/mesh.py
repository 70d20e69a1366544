"""The mesh of jobs that compute no gradients."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from lightningdit_jax.config import MeshConfig
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.planning.hardware import Hardware

_INFERENCE = {"data": -1, "fsdp": 1, "tensor": 1}


def inference_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The config's mesh; what is "auto" keeps weights whole on each device, which have room.

    devices: all that are there, if not given. Raises ValueError as make_mesh.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(config)
    chosen = {axis: size for axis, size in _INFERENCE.items() if sizes[axis] == "auto"}
    if "data" in chosen and -1 in (sizes["fsdp"], sizes["tensor"]):
        chosen["data"] = 1  # another axis takes what is left
    if sizes["dcn_data"] == "auto":
        chosen["dcn_data"] = Hardware.of(devices).granules
    return make_mesh(**sizes | chosen, devices=devices)
