#!/bin/sh
# tensorstore.experimental_collect_matching_metrics never frees what it returns: every call leaves all of its
# dictionaries and lists behind, which the garbage collector sees and cannot collect.
#
# Seen with tensorstore 0.1.86 on Linux, Python 3.11, after one array was written to a file:
#
#   calls of 1,000   objects that the collector tracks, more than before   bytes of memory a call
#   first            5,000                                                3,043
#   second           5,000                                                3,023
#
# Nothing refers to the answer when the next call begins (sys.getrefcount of it is that of a local variable),
# and gc.collect() changes nothing. It matters because Orbax (0.12.8) asks before and after writing each item of
# a checkpoint how many bytes were written, for a line of its log, for as long as the process lives. Exits with status 1 if a thousand calls leave fewer than a
# thousand objects. Needs the network and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorstore==0.1.86
cat > "$folder/ask.py" <<'PYTHON'
import gc
import pathlib
import sys

import tensorstore as ts

CALLS = 1000


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


store = {"driver": "zarr", "kvstore": {"driver": "file", "path": sys.argv[1]}}
ts.open(store, create=True, dtype=ts.float32, shape=[4]).result().write(1).result()
left = []
for _ in range(2):
    gc.collect()
    before, memory = len(gc.get_objects()), resident()
    for _ in range(CALLS):
        ts.experimental_collect_matching_metrics("/tensorstore/kvstore/")
    gc.collect()
    left.append(len(gc.get_objects()) - before)
    print(f"{CALLS} calls: {left[-1]} objects more, {(resident() - memory) / CALLS:.0f} bytes a call")
sys.exit(min(left) < CALLS)
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "$folder/array"
