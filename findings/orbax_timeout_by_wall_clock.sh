#!/bin/sh
# Orbax measures the time that it gives a save in the background by the wall clock, which may be set.
#
# Seen with orbax-checkpoint 0.12.8, jax 0.10.2, Python 3.11 on Linux. A CheckpointManager with its defaults
# writes 160 MB, which takes under a second, and meanwhile the clock is set forward by a day: what happens to a
# virtual machine that was suspended, or at a first answer of NTP. The save fails:
#
#   TimeoutError: ChainedFuture completed 2/3 futures but timed out after 86400.10 seconds.
#
# and there is no checkpoint of that step. The limit is AsyncOptions.timeout_secs, 1,200; with 10**9 the same
# save is kept. Futures, background thread and barriers all take time.time() for it, not a monotonic clock.
# Here the clock is a stand-in for time.time() of this process; the system's is left alone. Exits with status 1
# if the first save is kept or the second is not. Needs the network and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2
cat > "$folder/save.py" <<'PYTHON'
import logging
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AsyncOptions

logging.disable(logging.CRITICAL)  # of the traceback, which the error says again
real, asked = time.time, {"from": None}


def clock():
    """The real time, and a day later than that from the moment that is set."""
    return real() + (86400 if asked["from"] is not None and real() > asked["from"] else 0)


def failed(folder, options):
    manager = ocp.CheckpointManager(folder, options=options)
    arrays = {f"array{i}": np.ones((1000, 1000), np.float32) for i in range(40)}
    time.time, asked["from"] = clock, real() + 1e9
    manager.save(1, args=ocp.args.StandardSave(arrays))
    asked["from"] = real()  # set forward: while it writes in the background
    try:
        manager.wait_until_finished()
    except TimeoutError as error:
        print("  TimeoutError:", error)
    finally:
        time.time, asked["from"] = real, None
    return manager.latest_step() != 1 or not (manager.directory / "1").exists()


def options(**others):
    return ocp.CheckpointManagerOptions(enable_async_checkpointing=True, **others)


print("default:")
first = failed(sys.argv[1] + "/default", options())
print("timeout_secs=10**9:")
second = failed(sys.argv[1] + "/long", options(async_options=AsyncOptions(timeout_secs=10**9)))
print(f"save lost with the default: {first}, with the long timeout: {second}")
sys.exit(0 if first and not second else 1)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/save.py" "$folder"
