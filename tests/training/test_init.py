"""Runs that start from given weights: what is taken, resampled and fresh, and that it agrees."""

import shutil

import jax
import numpy as np
import pytest

from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.init import start
from lightningdit_jax.training.init.patches import resized_input, resized_output
from lightningdit_jax.tree_paths import named_leaves
from tests.training.init_cases import (
    begun,
    config,
    job_of,
    leaf_of,
    planned,
    velocity,
    write_source,
)
from tests.training.loop_cases import assert_same

BATCH = 4
Y = np.array([0, 3, 9, 10], np.int32)  # the null class too


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(path, arrays) of the tiny generator."""
    return write_source(tmp_path_factory.mktemp("init") / "source", config())


def latents(side=4, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, side, side, channels)).astype(np.float32)


def source_velocity(params, x):
    return velocity(job_of(config())[0].graphdef(), params, x, Y)


@pytest.mark.parametrize(("which", "item"), [("ema", "ema"), ("params", "params")])
def test_an_unchanged_architecture_begins_with_the_same_bits(source, which, item):
    path, arrays = source
    state, origin, takeover, graphdef = begun(config(train__init=path, train__init_weights=which))
    assert {leaf.fate for leaf in takeover.leaves} == {"taken"}
    for tree in (state.params, state.ema):
        assert_same(tree, arrays[item])
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    x = latents()
    loaded = load_functional(path, make_mesh(devices=jax.devices()[:1]), use_ema=which == "ema")
    wanted = velocity(graphdef, loaded.params, x, Y)
    np.testing.assert_array_equal(velocity(graphdef, state.params, x, Y), wanted)
    assert np.abs(wanted).max() > 0.01
    assert origin["weights"] == item and origin["fingerprint"] == loaded.fingerprint
    assert origin["fingerprint"] == weights_fingerprint(
        jax.tree.map(jax.numpy.asarray, arrays[item])
    )
    assert origin["changes"]["counts"] == {"taken": len(takeover.leaves)}


def test_weights_without_an_average_are_taken_with_a_line(tmp_path, capsys):
    path, _ = write_source(tmp_path / "source", config())
    shutil.rmtree(tmp_path / "source" / "ema")
    meta = tmp_path / "source" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"ema", ', "").replace(', "digests": 1', ""))
    shutil.rmtree(tmp_path / "source" / "digests")
    assert planned(config(train__init=path)).source.item == "params"
    assert "has no average beside its weights, which are taken" in capsys.readouterr().out


TABLE = "y_embedder/embedding"
NULL, FRESH = "null", "fresh"
ROWS = {
    "by number": ({}, [*range(10), NULL]),
    "more classes": ({"model__num_classes": 12}, [*range(10), FRESH, FRESH, NULL]),
    "fewer": ({"model__num_classes": 3}, [0, 1, 2, NULL]),
    "no null class here": ({"model__class_dropout_prob": 0.0}, list(range(10))),
    "a list": (
        {"model__num_classes": 4, "train__init_labels": "7,null, fresh,7"},
        [7, NULL, FRESH, 7, NULL],
    ),
    "names": ({"model__num_classes": 3, "train__init_labels": "j,name:a,2"}, [9, 0, 2, NULL]),
}


@pytest.mark.parametrize("case", ROWS)
def test_classes_begin_with_the_rows_that_are_said(source, case):
    path, arrays = source
    changes, rows = ROWS[case]
    old = arrays["ema"][TABLE.split("/")[0]]["embedding"]
    fresh = np.full((len(rows), 16), 7.0, np.float32)
    leaf = leaf_of(planned(config(train__init=path, **changes)), TABLE)
    found = np.asarray(leaf.make(old, fresh))
    for row, said in zip(found, rows, strict=True):
        wanted = {NULL: old[10], FRESH: fresh[0]}.get(said) if isinstance(said, str) else old[said]
        np.testing.assert_array_equal(row, wanted)
    assert leaf.fate == ("taken" if case == "by number" else "resampled")


def test_a_null_class_that_the_source_lacks_is_fresh(tmp_path):
    path, _ = write_source(tmp_path / "source", config(model__class_dropout_prob=0.0))
    leaf = leaf_of(planned(config(train__init=path)), TABLE)
    old, fresh = np.ones((10, 16), np.float32), np.full((11, 16), 7.0, np.float32)
    found = np.asarray(leaf.make(old, fresh))
    assert np.all(found[:10] == 1) and np.all(found[10] == 7)
    assert leaf.note == "10 rows of the source's 10, 1 fresh"


def resize_of_patches(old, new):
    """FlexiViT's matrix as its code makes it, of resized unit patches. [new^2, old^2]."""
    basis = np.eye(old * old, dtype=np.float32).reshape(-1, old, old)
    resized = jax.vmap(lambda p: jax.image.resize(p, (new, new), "bilinear"))(basis)
    return np.asarray(resized, np.float64).reshape(old * old, new * new).T


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (2, 4), (4, 2), (3, 5)])
def test_patches_are_resampled_as_in_flexivit(old, new):
    kernel = np.random.default_rng(0).normal(size=(old, old, 3, 5))
    matrix, flat = resize_of_patches(old, new), kernel.reshape(old * old, -1)
    wanted = (np.linalg.pinv(matrix.T) @ flat).reshape(new, new, 3, 5)
    np.testing.assert_allclose(resized_input(kernel, new), wanted, atol=2e-5)
    wanted = (matrix @ flat).reshape(new, new, 3, 5)
    np.testing.assert_allclose(resized_output(kernel, new), wanted, atol=2e-5)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 4), (2, 3)])
def test_an_enlarged_patch_is_embedded_as_it_was(old, new):
    rng = np.random.default_rng(1)
    kernel, patch = rng.normal(size=(old, old, 3, 5)), rng.normal(size=(old, old, 3))
    enlarged = np.asarray(jax.image.resize(patch, (new, new, 3), "bilinear"))
    then = np.einsum("ijc,ijcd", enlarged, np.asarray(resized_input(kernel, new)))
    np.testing.assert_allclose(then, np.einsum("ijc,ijcd", patch, kernel), atol=3e-5)


@pytest.mark.slow
def test_a_generator_of_twice_the_side_says_the_same_of_enlarged_latents(source):
    """Patches of 2 where they were of 1: the same tokens, and a velocity in blocks of 2x2."""
    path, arrays = source
    doubled = config(train__init=path, model__input_size=8, model__patch_size=2)
    state, _, takeover, graphdef = begun(doubled)
    fates = {leaf.name: leaf.fate for leaf in takeover.leaves if leaf.fate != "taken"}
    assert fates == dict.fromkeys(
        ("x_embedder/kernel", "final_layer/linear/kernel", "final_layer/linear/bias"), "resampled"
    )
    x = latents()
    enlarge = np.ones((1, 2, 2, 1), np.float32)
    found = velocity(graphdef, state.params, np.kron(x, enlarge), Y)
    np.testing.assert_allclose(
        found, np.kron(source_velocity(arrays["ema"], x), enlarge), rtol=1e-4, atol=1e-4
    )


def test_new_channels_and_their_second_half_change_nothing_at_first(source):
    path, arrays = source
    more = {"model__in_channels": 11, "model__learn_sigma": True}
    state, _, _, graphdef = begun(config(train__init=path, **more))
    x, wanted = latents(), source_velocity(arrays["ema"], latents())
    for seed in (1, 2):
        more = np.concatenate([x, latents(channels=3, seed=seed)], axis=-1)
        found = velocity(graphdef, state.params, more, Y)
        np.testing.assert_allclose(found[..., :8], wanted, rtol=1e-5, atol=1e-5)
        assert not found[..., 8:].any()
    kernel = np.asarray(state.params["final_layer"]["linear"]["kernel"])
    assert kernel.shape == (16, 22) and not kernel[:, 8:].any() and kernel[:, :8].all()


def test_a_grid_of_another_side_has_the_table_of_its_own(source):
    path, arrays = source
    takeover = planned(config(train__init=path, model__input_size=8))
    table = leaf_of(takeover, "pos_embed")
    assert (table.fate, table.note) == ("fresh", "computed, for a grid of 8x8")
    assert sum(leaf.fate == "taken" for leaf in takeover.leaves) == len(takeover.leaves) - 1
    fresh = np.ones((64, 16))
    assert table.make(arrays["ema"]["pos_embed"], fresh) is fresh


@pytest.mark.slow
def test_a_second_half_of_channels_is_left_behind(tmp_path):
    path, arrays = write_source(tmp_path / "sigma", config(model__learn_sigma=True))
    state, _, _, graphdef = begun(config(train__init=path, model__learn_sigma=False))
    old = job_of(config(model__learn_sigma=True))[0].graphdef()
    found = velocity(graphdef, state.params, latents(), Y)
    wanted = velocity(old, arrays["ema"], latents(), Y)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_excluded_and_switched_on_is_as_initialized(source):
    path, arrays = source
    changes = {"model__use_qknorm": True, "train__init_exclude": ("*/adaLN_modulation/*",)}
    state, origin, takeover, _ = begun(config(train__init=path, **changes))
    fresh = {leaf.name: leaf.note for leaf in takeover.leaves if leaf.fate == "fresh"}
    assert sorted(set(fresh.values())) == ["excluded", "the source has no q/k norm"]
    assert len(fresh) == 6 and origin["changes"]["counts"]["fresh"] == 6
    old = dict(named_leaves(arrays["ema"]))
    for name, leaf in named_leaves(state.params):
        wanted = old.get(name) if name not in fresh else float("_norm" in name)
        np.testing.assert_array_equal(leaf, np.broadcast_to(wanted, leaf.shape), err_msg=name)
    lines = takeover.table()
    assert "(lightningdit, step 40, averaged weights)" in lines[0]
    assert lines[1] == f"  model: {len(takeover.leaves) - 6} taken, 6 fresh"
    assert sum("excluded" in line for line in lines) == 4


def test_every_device_reads_its_part(source, monkeypatch):
    path, _ = source
    mesh, read = make_mesh(data=1, fsdp=8), {}

    def reading(checkpoint, item, abstract):
        tree = start_read(checkpoint, item, abstract)
        read.update(named_leaves(tree))
        return tree

    start_read = start.read_arrays
    monkeypatch.setattr(start, "read_arrays", reading)
    changes = {"model__num_classes": 12, "model__input_size": 8, "model__patch_size": 2}
    on_mesh, origin, _, _ = begun(config(train__init=path, **changes), mesh)
    for name in ("blocks/attn/qkv/kernel", "blocks/mlp/w3/kernel"):
        shard = read[name].addressable_shards[0].data
        assert shard.size * 8 == read[name].size, name
    abstract = job_of(config(**changes), mesh)[2]
    for (name, leaf), (_, wanted) in zip(
        named_leaves(on_mesh), named_leaves(abstract), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), name
    alone, origin_alone, _, _ = begun(config(train__init=path, **changes))
    assert origin == origin_alone
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6),
        on_mesh.params,
        alone.params,
    )


@pytest.mark.slow
def test_a_second_head_is_taken_from_after_the_same_block_alone(tmp_path):
    three = {"model__depth": 3}
    path, _ = write_source(tmp_path / "two_heads", config(**three, model__aux_head_depth=1))
    plain, _ = write_source(tmp_path / "plain", config(**three))
    for init, depth, fate, note in (
        (path, 1, "taken", ""),
        (path, 2, "fresh", "the source's is after block 1"),
        (plain, 2, "fresh", "the source has no second head"),
    ):
        takeover = planned(config(train__init=init, **three, model__aux_head_depth=depth))
        heads = [leaf for leaf in takeover.leaves if leaf.name.startswith("aux_head/")]
        assert {(leaf.fate, leaf.note) for leaf in heads} == {(fate, note)} and len(heads) == 5
        others = {leaf.fate for leaf in takeover.leaves if leaf not in heads}
        assert others == {"taken"}
    with pytest.raises(ValueError, match=r"aux_head_depth 1 there, 0 here\): aux_head/adaLN"):
        planned(config(train__init=path, **three))
    left = planned(config(train__init=path, **three, train__init_exclude=("aux_head/*",))).left
    assert len(left) == 5
