"""Names of leaves are those that checkpoints and tables of rules use."""

import jax
import jax.numpy as jnp
import optax

from lightningdit_jax.tree_paths import map_named, named_leaves

TREE = {"blocks": [{"qkv": {"kernel": 1}}, {"qkv": {"kernel": 2}}], "a": (3,)}


def test_names_are_keys_fields_and_indices():
    names = {"a/0": 3, "blocks/0/qkv/kernel": 1, "blocks/1/qkv/kernel": 2}
    assert dict(named_leaves(TREE)) == names
    state = optax.adamw(0.1).init({"w": jnp.ones(2)})
    assert [name for name, _ in named_leaves(state)] == ["0/count", "0/mu/w", "0/nu/w"]


def test_mapping_keeps_the_structure_and_takes_more_trees():
    mapped = map_named(lambda name, x, y: f"{name}={x + y}", TREE, TREE)
    assert jax.tree.structure(mapped) == jax.tree.structure(TREE)
    assert mapped["blocks"][1]["qkv"]["kernel"] == "blocks/1/qkv/kernel=4"
