#!/bin/sh
# A product of bfloat16 in a Pallas kernel for TPUs stops compiling under
# jax_default_matmul_precision=highest, which XLA's own product of bfloat16 does not mind.
#
# Seen with jax 0.10.2, jaxlib 0.10.2 and libtpu 0.0.42.1 on Linux, Python 3.11, compiled ahead of time
# for a v5e chip that is not there:
#
#   JAX_DEFAULT_MATMUL_PRECISION  x @ y in XLA  x @ y in Pallas  with Precision.DEFAULT in Pallas
#   default                       compiles      compiles         compiles
#   highest                       compiles      "Bad lhs type"   compiles
#
# "highest" is what people set to compare numbers in float32, where bfloat16 has no more to give; XLA
# ignores it for bfloat16. Pallas hands it on as contract_precision<fp32>, and Mosaic refuses operands
# that are not float32, at the line of the kernel's caller. A kernel is only safe from a user's
# environment if each of its products says Precision.DEFAULT. Exits with status 1 if any of this changes.
# Needs the network (libtpu is 200 MB) and PYTHON (python3) of version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cat > "$folder/compile.py" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental import topologies

chip = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1)
).devices[0]
there = jax.sharding.SingleDeviceSharding(chip)
x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16, sharding=there)


def in_pallas(**options):
    def kernel(x, y, out):
        out[...] = jnp.dot(x[...], y[...], preferred_element_type=jnp.float32, **options)

    shape = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    return pl.pallas_call(kernel, out_shape=shape)


ways = {
    "xla": lambda x, y: jnp.dot(x, y, preferred_element_type=jnp.float32),
    "pallas": in_pallas(),
    "pallas_default": in_pallas(precision=jax.lax.Precision.DEFAULT),
}
for name, way in ways.items():
    try:
        jax.jit(way).lower(x, x).compile()
        print(name, "compiles")
    except Exception as error:
        print(name, "Bad lhs type" if "Bad lhs type" in str(error) else error)
PYTHON
run() {
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 JAX_DEFAULT_MATMUL_PRECISION="$1" \
        "$folder/venv/bin/python" "$folder/compile.py" 2>/dev/null
}
status=0
expect() {
    echo "$2"
    [ "$1" = "$2" ] || { echo "expected: $1"; status=1; }
}
expect "xla compiles
pallas compiles
pallas_default compiles" "$(run default)"
expect "xla compiles
pallas Bad lhs type
pallas_default compiles" "$(run highest)"
exit $status
