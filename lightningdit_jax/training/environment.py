"""What a training ran with, each time it was started: a line of WORKDIR/starts.jsonl."""

import importlib.metadata
import json
import platform
import time

import jax
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.metrics_log import STARTS, read_log

PACKAGES = ("lightningdit_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
MOST = 1000  # starts that are kept, the newest


def record_start(workdir: str, step: int, mesh: Mesh) -> None:
    """Adds a start from a step on. Damaged lines are dropped. Raises StorageError."""
    device, path = mesh.devices.flat[0], epath.Path(workdir) / STARTS
    start = {
        "step": step,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "device": device.device_kind,
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        # Drivers and compilers of the backend.
        "runtime": " ".join(device.client.platform_version.split()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    before = [line for _, line in read_log(path)[0]] if path.exists() else []
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{n}\n" for n in [*before, json.dumps(start)][-MOST:]))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""  # as of a checkout that is not installed
