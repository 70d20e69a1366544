#!/bin/sh
# On a CPU a product of bfloat16 with sums in float32 compiles and fails when it runs, if its result is
# transposed.
#
# Seen with jax 0.10.2 and jaxlib 0.10.2 on Linux x86-64, Python 3.11; x of bfloat16, 16 by 16, and
# product(x, y) = jnp.matmul(x, y, preferred_element_type=jnp.float32), under jax.jit:
#
#   product(x, x)         runs
#   product(x, x).T       UNIMPLEMENTED: Unsupported element type for DotThunk::Execute: BF16 x BF16 = F32
#   product(x.T, x).T     runs
#   jnp.matmul(x, x).T    runs
#
# The transposition is folded into the product, and what is left goes to a kernel that has not got these
# types. The error comes at the first look at the result, not when the program is compiled. Converted to
# float32 first, which changes no bit of the products, it runs. Exits with status 1 if any of this changes.
# Needs the network and PYTHON (python3) of version 3.11 or newer.
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


def product(x, y):
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


found = []
for name, function in {
    "product(x, x)": lambda x: product(x, x),
    "product(x, x).T": lambda x: product(x, x).T,
    "product(x.T, x).T": lambda x: product(x.T, x).T,
    "jnp.matmul(x, x).T": lambda x: jnp.matmul(x, x).T,
}.items():
    try:
        np.asarray(jax.jit(function)(jnp.ones((16, 16), jnp.bfloat16)))
        print(f"{name}: runs")
        found.append(True)
    except jax.errors.JaxRuntimeError as error:
        print(f"{name}: {error}")
        found.append(False)
print("as described" if found == [True, False, True, True] else "this has changed")
PYTHON
said=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py")
echo "$said"
case $said in *"as described") ;; *) exit 1 ;; esac
