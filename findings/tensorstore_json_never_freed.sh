#!/bin/sh
# Of what TensorStore makes of JSON for Python all keys and values are never freed: to_json() of a spec, a schema or
# a kvstore's spec, and experimental_collect_matching_metrics(), give every key and value one reference too many.
#
# Seen with tensorstore 0.1.86 on Linux, Python 3.11; blocks are those of sys.getallocatedblocks():
#
#   1,000 calls of                            blocks left, each   bytes of memory, each   references to a value
#   KvStore.Spec of a file, to_json()         4                   266                     4
#   Spec of an array, to_json()               35                  2,204                   4
#   experimental_collect_matching_metrics     44                  3,088                   4
#
# A value that a dictionary and a variable hold has 3 references as sys.getrefcount counts them, with its own.
# Four blocks are the two keys and two values of {"driver": "file", "path": ...}. Nothing else refers to the answer,
# and gc.collect() changes nothing; the collector does not even see texts, so counting its objects does not show it.
# It matters because Orbax (0.12.8) asks the spec of a checkpoint's folder for its JSON once for every array of every
# save, and before and after writing each item the metrics, for a line of its log: tens of KB a checkpoint of
# 100 arrays, for as long as the process lives. Exits with status 1 if any of the three leaves less than one block a call.
# Needs the network and PYTHON (python3) of version 3.11 or newer.
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


file = {"driver": "file", "path": sys.argv[1]}
array = {"driver": "zarr", "kvstore": file}
ts.open(array, create=True, dtype=ts.float32, shape=[4]).result().write(1).result()
metadata = {"shape": [2, 3], "dtype": "<f4", "chunks": [2, 3]}
of_file, of_array = ts.KvStore.Spec(file), ts.Spec({**array, "metadata": metadata})
asked = {
    "KvStore.Spec.to_json": of_file.to_json,
    "Spec.to_json": of_array.to_json,
    "metrics": lambda: ts.experimental_collect_matching_metrics("/tensorstore/kvstore/"),
}
least = float("inf")
for name, ask in asked.items():
    for _ in range(100):
        ask()
    gc.collect()
    blocks, memory = sys.getallocatedblocks(), resident()
    for _ in range(CALLS):
        ask()
    gc.collect()
    left = (sys.getallocatedblocks() - blocks) / CALLS
    least = min(least, left)
    answer = ask()
    value = next(iter((answer[0] if isinstance(answer, list) else answer).values()))
    print(f"{name}: {left:.2f} blocks and {(resident() - memory) / CALLS:.0f} bytes a call; "
          f"references to a value: {sys.getrefcount(value)}")
sys.exit(least < 1)
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "$folder/array"
