#!/bin/sh
# The first checkpoint of replicated arrays compiles a program for each shape on each device.
#
# Seen with orbax-checkpoint 0.12.8, jax 0.10.2 and jaxlib 0.10.2 on Linux, Python 3.11; 60 arrays of
# different shapes, replicated over the eight (host) devices of one process, saved once by
# PyTreeCheckpointHandler:
#
#   ArrayHandler                            programs compiled  CPU seconds of the save
#   as it is                                480                21
#   with use_replica_parallel=False         0                  0.1
#
# use_replica_parallel is there to have processes share the writing of what all of them hold, and is on
# by default, but for JAX_PLATFORMS that names a GPU. In a single process it has each device cut out its
# part, eagerly: XLA compiles "slice" anew for every shape and every device, and the run stands still
# until that is done; nothing is won, since one process writes everything. Exits with status 1 if the
# numbers of programs change; the seconds are only printed.
# Needs the network and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 orbax-checkpoint==0.12.8
cat > "$folder/save.py" <<'PYTHON'
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

everywhere = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec())
rng = np.random.default_rng(0)
tree = {
    str(n): jax.device_put(rng.normal(size=(8 * (n % 5 + 1), 16 + n)), everywhere)
    for n in range(60)
}
jax.block_until_ready(tree)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
)
options = {} if sys.argv[2] == "default" else {"use_replica_parallel": False}
arrays = ocp.type_handlers.ArrayHandler(**options)
registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
began = time.process_time()
with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as writer:
    writer.save(sys.argv[1], args=ocp.args.PyTreeSave(tree))
print(f"{time.process_time() - began:.1f} CPU seconds", file=sys.stderr)
print(len(compiled))
PYTHON
status=0
check() {
    found=$(JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        "$folder/venv/bin/python" "$folder/save.py" "$folder/$1" "$1")
    echo "$1: $found programs"
    [ "$found" = "$2" ] || status=1
}
check default 480
check off 0
[ $status = 0 ] && echo "as described" || echo "this has changed"
exit $status
