"""Eight CPU devices for every test, and one compilation cache for all of them."""

import gc
import os
import pathlib

import pytest

from tests.xla_flags import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}".strip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parent.parent / ".cache" / "jax-tests"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module", autouse=True)
def old_objects_are_left_alone():
    """What JAX keeps of the modules before is not looked through again by Python's collector.

    A worker comes to hold millions of objects, and a collection then takes a second.
    """
    gc.collect()
    gc.freeze()
