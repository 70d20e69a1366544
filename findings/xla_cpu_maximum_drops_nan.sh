#!/bin/sh
# On a CPU the largest and the smallest of many numbers leave NaN out, and of few numbers they do not: a
# check for numbers that are not finite by jnp.max(jnp.abs(x)) finds nothing in an array of any size.
#
# Seen with jax 0.10.2 and jaxlib 0.10.2 on Linux x86-64, Python 3.11, all settings as they come; x of
# float32 is ones with one NaN in it:
#
#                             64 numbers    64 by 64 numbers
#   jnp.max(x)                nan           1.0
#   jnp.min(x)                nan           1.0
#   jnp.sum(x)                nan           nan
#   np.max(x)                 nan           nan
#   jnp.max of NaN alone      nan           -inf
#
# From somewhere between 1,000 and 4,096 numbers on, the reduction is given to a library whose maximum and
# minimum skip NaN. With the compiler option xla_cpu_experimental_ynn_fusion_type set to a value without
# LIBRARY_FUSION_TYPE_REDUCE, XLA's own loops carry the NaN. A sum carries it either way.
# Exits with status 1 if any of this changes. Needs the network and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2
cat > "$folder/run.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

nan = float("nan")
OWN_LOOPS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
FUNCTIONS = {"jnp.max": jnp.max, "jnp.min": jnp.min, "jnp.sum": jnp.sum, "np.max": np.max}
found = {}
for shape in ((64,), (64, 64)):
    x = np.ones(shape, np.float32)
    x.flat[1] = nan
    for name, function in FUNCTIONS.items():
        found[name, shape] = float(function(x))
    found["NaN alone", shape] = float(jnp.max(np.full(shape, nan, np.float32)))
    own = jax.jit(jnp.max).lower(x).compile(compiler_options=OWN_LOOPS)
    found["XLA's own loops", shape] = float(own(x))
for (name, shape), value in found.items():
    print(f"{name}, {shape}: {value}")
expected = {key: nan for key in found}
expected["jnp.max", (64, 64)] = expected["jnp.min", (64, 64)] = 1.0
expected["NaN alone", (64, 64)] = -np.inf
same = all(np.array_equal(found[key], expected[key], equal_nan=True) for key in found)
print("as described" if same else "this has changed")
PYTHON
said=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py")
echo "$said"
case $said in *"as described") ;; *) exit 1 ;; esac
