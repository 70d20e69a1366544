"""The first state of a run that starts from given weights, and what is remembered of those."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
from lightningdit_jax.tree_paths import named_leaves

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
    weights = _read(source, source.item, abstract_on_mesh(source.shapes, mesh, rules))
    origin = _origin(takeover, weights_fingerprint(weights))
    companions = {name: _read_companion(source, name, mesh) for name in takeover.companions}
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


def _read(source: Source, item: str, abstract: Any) -> Any:
    try:
        return read_arrays(source.checkpoint, item, abstract)
    except DamagedCheckpointError as error:
        raise ValueError(f"config.train.init: {error}") from error


def _read_companion(source: Source, name: str, mesh: Mesh) -> tuple[Arrays, Arrays]:
    """Parameters and statistics by name, on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        source.companion(name),
    )
    tree = _read(source, name, abstract)
    return _by_name(tree["params"]), _by_name(tree["stats"])


def _by_name(tree: Any) -> Arrays:
    return dict(named_leaves(tree))


def _origin(takeover: Takeover, fingerprint: str) -> dict[str, Any]:
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
