"""The first state of a run that starts from given weights, and what is remembered of those."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from lightningdit_jax.assembly import companion
from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.checkpoint import read_arrays
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError
from lightningdit_jax.config import Config
from lightningdit_jax.hub import address_of
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.training.init import leaves
from lightningdit_jax.training.init.leaves import built
from lightningdit_jax.training.init.source import Source
from lightningdit_jax.training.init.takeover import Takeover
from lightningdit_jax.training.job import Job, state_of
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.tree_paths import map_named, named_leaves

Arrays = dict[str, jax.Array]


def begin(
    takeover: Takeover, job: Job, config: Config, optimizer: Any, abstract: TrainState, mesh: Mesh
) -> tuple[Callable[[], TrainState], dict[str, Any]]:
    """(make_state, origin): what makes the state at step 0, once, and the meta of where it is from.

    abstract: shapes and shardings of the state. Every device reads its part of the source's arrays,
    now; they are let go when the state is made. All processes must call it. Raises ValueError where
    they cannot be read.
    """
    source = takeover.source
    rules = MODELS[source.kind].rules
    weights = read_weights(source, abstract_on_mesh(source.shapes, mesh, rules))
    origin = origin_of(takeover, weights_fingerprint(weights))
    companions = {
        name: tuple(map(_by_name, read_companion(source, name, mesh)))
        for name in takeover.companions
    }
    held = [(_by_name(weights), companions)]

    def create(params: Arrays, companions: dict[str, tuple[Arrays, Arrays]]) -> TrainState:
        networks = job.init_companions(config.seed)
        for name, (weights, stats) in companions.items():
            fresh, fresh_stats = networks[name]
            taken = built(takeover.companions[name], weights, fresh)
            networks[name] = taken, built([*map(leaves.taken, stats)], stats, fresh_stats)
        model = built(takeover.leaves, params, job.init_params(config.seed))
        return state_of(model, networks, config, optimizer)

    def make_state() -> TrainState:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return jax.jit(create, out_shardings=shardings)(*held.pop())

    return make_state, origin


def read_weights(source: Source, abstract: Any) -> Any:
    """The source's weights, as `abstract` has them. Raises ValueError where they cannot be read."""
    if not source.beside:
        with _of_init():
            return read_arrays(source.checkpoint, source.item, abstract)
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    arrays = _by_name(read_companion(source, source.beside, mesh)[0])
    return map_named(lambda name, leaf: jax.device_put(arrays[name], leaf.sharding), abstract)


@contextlib.contextmanager
def _of_init() -> Iterator[None]:
    try:
        yield
    except DamagedCheckpointError as error:
        raise ValueError(f"config.train.init: {error}") from error


def read_companion(source: Source, name: str, mesh: Mesh) -> tuple[Any, Any]:
    """As companion.read_companion. Raises ValueError where they cannot be read."""
    with _of_init():
        return companion.read_companion(source.checkpoint, name, mesh)


def _by_name(tree: Any) -> Arrays:
    return dict(named_leaves(tree))


def origin_of(takeover: Takeover, fingerprint: str) -> dict[str, Any]:
    """Where weights are from, with what their own checkpoint says of that."""
    source = takeover.source
    origin = {
        "path": address_of(source.checkpoint),
        "step": source.meta["step"],
        "kind": source.kind,
        "weights": source.item,
        "fingerprint": fingerprint,
        "changes": takeover.changes(),
    }
    return origin | {key: source.meta[key] for key in ("init", "source") if key in source.meta}
