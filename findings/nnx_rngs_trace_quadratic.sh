#!/bin/sh
# flax.nnx.eval_shape of a module takes time that grows with the square of its layers, most of it spent
# on error messages that nobody sees.
#
# Seen with flax 0.12.8, jax 0.10.2 and jaxlib 0.10.2 on Linux, Python 3.11; a module of N layers
# nnx.Linear(1, 1), each of which asks nnx.Rngs for two keys, under nnx.eval_shape:
#
#   N      error messages composed  equations gone through for them  CPU seconds
#   100    400                      180,600                          0.7
#   400    1600                     2,882,400                        12.2
#
# Rngs counts its keys in a variable, `count[...] += 1`. Setting it compares getattr(value, "sharding",
# None) of the old and the new count; of a traced value JAX answers with an AttributeError whose text
# tells where the value comes from, and looks for that through all equations traced so far. Exits with
# status 1 if tracing 400 layers no longer goes through more than 8 times as many equations as 100.
# Needs the network and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
cat > "$folder/trace.py" <<'PYTHON'
import time

from flax import nnx
from jax._src.interpreters import partial_eval

gone_through = messages = 0
find, tell = partial_eval.JaxprStackFrame.find_progenitors, partial_eval.DynamicJaxprTracer._origin_msg


def finding(self, tracer):
    global gone_through
    gone_through += len(self.get_eqns())
    return find(self, tracer)


def telling(self):
    global messages
    messages += 1
    return tell(self)


partial_eval.JaxprStackFrame.find_progenitors = finding
partial_eval.DynamicJaxprTracer._origin_msg = telling


class Layers(nnx.Module):
    def __init__(self, count, rngs):
        self.layers = nnx.List([nnx.Linear(1, 1, rngs=rngs) for _ in range(count)])


found = []
for count in (100, 400):
    gone_through = messages = 0
    began = time.process_time()
    nnx.eval_shape(lambda: Layers(count, nnx.Rngs(0)))
    seconds = time.process_time() - began
    print(f"{count} layers: {messages} messages, {gone_through} equations, {seconds:.1f} CPU seconds")
    found.append(gone_through)
print("as described" if found[1] > 8 * found[0] > 0 else "this has changed")
PYTHON
said=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/trace.py")
echo "$said"
case $said in *"as described") ;; *) exit 1 ;; esac
