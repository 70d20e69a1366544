import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.parallel.mesh import make_mesh

WEIGHTS = {"a": np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32), "b": np.ones(3)}


def test_depends_on_every_bit_and_position_but_not_on_sharding():
    params = jax.tree.map(jnp.asarray, WEIGHTS)
    name = weights_fingerprint(params)
    assert len(name) == 16 and name == weights_fingerprint(params)
    sharded = jax.device_put(params["a"], NamedSharding(make_mesh(), P(("data",))))
    assert weights_fingerprint({"a": sharded, "b": params["b"]}) == name
    swapped = params["a"].at[0, :2].set(params["a"][0, 1::-1])
    nudged = params["a"].at[7, 5].set(jnp.nextafter(params["a"][7, 5], 9.0))
    others = [
        {**params, "a": swapped},
        {**params, "a": nudged},
        {"c": params["a"], "b": params["b"]},
    ]
    assert len({name, *map(weights_fingerprint, others)}) == 4
