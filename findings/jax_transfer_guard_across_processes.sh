#!/bin/sh
# jax.make_array_from_process_local_data is an explicit transfer in one process and a disallowed
# implicit one in two.
#
# Seen with jax 0.10.2, jaxlib 0.10.2 and numpy 2.4.6 on Linux, CPU backend with gloo, Python 3.11:
# under jax.transfer_guard("disallow"), whose documentation lets explicit transfers pass,
#
#   one process    make_array_from_process_local_data  placed
#                  device_put                          placed
#                  make_array_from_callback            refused (host-to-device transfer)
#   two processes  make_array_from_process_local_data  refused
#                  device_put                          placed
#                  make_array_from_callback            refused
#
# In one process the first takes the way of device_put, in several that of the callback, which the
# guard counts as implicit. So a training loop that runs guarded on one host raises at its first
# batch on two. Exits with status 1 if any of this changes. Needs the network and PYTHON (python3) of
# version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/place.py" <<'PYTHON'
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

count, index, port = map(int, sys.argv[1:])
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=count, process_id=index)
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
rows = np.arange(4, dtype=np.float32)
ways = {
    "local": lambda: jax.make_array_from_process_local_data(sharding, rows, (4 * count,)),
    "put": lambda: jax.device_put(rows, sharding),
    "callback": lambda: jax.make_array_from_callback((4,), sharding, lambda part: rows[part]),
}
seen = []
with jax.transfer_guard("disallow"):
    for name, place in ways.items():
        try:
            place().block_until_ready()
            seen.append(f"{name} placed")
        except jax.errors.JaxRuntimeError as error:
            assert "Disallowed host-to-device transfer" in str(error), error
            seen.append(f"{name} refused")
print(", ".join(seen))
PYTHON
export JAX_PLATFORMS=cpu
place="$folder/venv/bin/python $folder/place.py"
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
alone=$($place 1 0 0)
timeout 120 $place 2 1 "$port" > "$folder/other" 2> /dev/null &
together=$(timeout 120 $place 2 0 "$port" 2> /dev/null | grep placed)
wait
echo "one process:   $alone"
echo "two processes: $together"
[ "$alone" = "local placed, put placed, callback refused" ]
[ "$together" = "local refused, put placed, callback refused" ]
