"""Eight CPU devices for every test, and one compilation cache for all of them.

LLVM optimises less than by default: a third of a run's time, most of which is compiling. What XLA
makes of a program before that is the same.
"""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1 "
    + os.environ.get("XLA_FLAGS", "")
).strip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parent.parent / ".cache" / "jax-tests"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax

jax.config.update("jax_default_matmul_precision", "highest")
