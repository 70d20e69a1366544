"""Whole runs that start from given weights: generations, restarts, what they remember."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.checkpoint import TrainingCheckpoints, find_checkpoint, read_meta
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.init.source import open_source
from lightningdit_jax.training.init.takeover import plan_takeover
from lightningdit_jax.training.run import train
from lightningdit_jax.tree_paths import named_leaves
from tests import tiny
from tests.training.init_cases import begun, config, job_of, random_tree, write_source
from tests.training.loop_cases import assert_same, records

pytestmark = pytest.mark.xdist_group(__name__)  # one worker makes what its tests share

TUNED = {
    "model__num_classes": 12,
    "optimizer__freeze": ("blocks/*",),
    "optimizer__rate_factors": ("y_embedder/*=10",),
    "train__checkpoint_every_steps": 2,
    "train__log_every_steps": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a source and of two generations; the second is tuned whole and with a break."""
    folder = tmp_path_factory.mktemp("runs")
    latents = str(tiny.write_latents(folder / "latents"))
    source = config()
    files = [{"file": "theirs.pt", "sha256": "f00d"}]
    converted = {"kind": "lightningdit", "files": files, "tensors": 3, "converted": 3}
    converted |= {"weights": "ema", "left_out": {}}
    path, arrays = write_source(folder / "source", source, source=converted)
    changes = {**TUNED, "data__path": latents, "data__stats": "checkpoint", "train__init": path}
    seen = []

    def go(name, steps, **more):
        wanted = config(**{**changes, "train__num_steps": steps, **more})

        def evaluator(config, scaling):
            seen.append(scaling)

        return train(wanted, str(folder / name), evaluator)

    whole = go("whole", 4)
    go("broken", 2)
    shutil.move(path, f"{path}-moved")  # a run that goes on does not need it
    broken = go("broken", 4)
    again = {"train__init": str(folder / "whole"), "data__stats": "", "data__latent_norm": False}
    go("third", 2, **again)
    return folder, arrays, {"whole": whole, "broken": broken}, seen


def test_a_restart_of_a_tuned_run_changes_no_bit(runs):
    folder, _, states, _ = runs
    assert_same(states["whole"], states["broken"])
    assert records(folder / "whole") == records(folder / "broken")
    metas = [read_meta(find_checkpoint(str(folder / name))) for name in ("whole", "broken")]
    assert metas[0]["init"] == metas[1]["init"]


def test_what_is_frozen_keeps_its_bits_and_the_rest_moves(runs):
    _, arrays, states, _ = runs
    old = dict(named_leaves(arrays["ema"]))
    for name, leaf in named_leaves(states["whole"].params):
        before = old[name] if name != "y_embedder/embedding" else None
        if name.startswith("blocks/") or name == "pos_embed":
            np.testing.assert_array_equal(leaf, before, err_msg=name)
        elif before is not None:
            assert np.any(np.asarray(leaf) != before), name


def test_the_scaling_of_the_source_is_gone_on_with(runs):
    """By the data, by evaluations and in checkpoints, after a restart too."""
    folder, _, _, seen = runs
    assert seen == [LatentScaling()] * 3 + [None]
    for name in ("whole", "broken", "third"):
        meta = read_meta(find_checkpoint(str(folder / name)))
        assert LatentScaling.from_meta(meta["latents"]) == LatentScaling()


def test_every_generation_knows_where_it_is_from(runs):
    folder, _, _, _ = runs
    mesh = make_mesh(devices=jax.devices()[:1])
    third = load_functional(str(folder / "third"), mesh)
    origin = third.meta["init"]
    second = load_functional(str(folder / "whole"), mesh)
    assert origin["path"] == str(folder / "whole" / "checkpoints" / "4")
    assert (origin["step"], origin["kind"], origin["weights"]) == (4, "lightningdit", "ema")
    assert origin["fingerprint"] == second.fingerprint
    first = origin["init"]
    assert first == second.meta["init"] and first["step"] == 40 and "init" not in first
    assert first["source"]["files"] == [{"file": "theirs.pt", "sha256": "f00d"}]
    table = {"y_embedder/embedding": "resampled: 11 rows of the source's 11, 2 fresh"}
    assert first["changes"]["changed"] == table
    lines = third.description().splitlines()
    start = lines.index(f"began as step 4 of {folder / 'whole' / 'checkpoints' / '4'}")
    assert lines[start + 1] == f"  averages {second.fingerprint}: 25 taken"
    assert lines[start + 2] == f"began as step 40 of {folder / 'source'}"
    assert lines[start + 4 :] == [
        "  y_embedder/embedding  resampled: 11 rows of the source's 11, 2 fresh",
        "  converted from theirs.pt  SHA-256 f00d",
    ]


ADVERSARY = {
    "vae_loss__disc_weight": 0.5,
    "vae_loss__perceptual_weight": 0.0,
    "tokenizer__ch": 32,
    "discriminator__ndf": 4,
    "discriminator__num_layers": 1,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A training checkpoint of a tokenizer and its discriminator: (path, state), random."""
    folder = tmp_path_factory.mktemp("tokenizer")
    wanted = tiny.config("digits_vavae", **ADVERSARY)
    job, _, abstract, _ = job_of(wanted)
    state = random_tree(abstract, 0)
    checkpoints = TrainingCheckpoints(str(folder), keep=1)
    meta = {"format_version": 1, "kind": "vavae", "step": 7, **job.description}
    checkpoints.save(7, jax.tree.map(jax.numpy.asarray, state).items(), {"meta": meta})
    checkpoints.close()
    return str(folder), state


@pytest.mark.slow
def test_a_tokenizer_begins_with_the_bits_of_its_source_and_of_its_discriminator(tokenizer):
    path, old = tokenizer
    state, origin, takeover, graphdef = begun(
        tiny.config("digits_vavae", train__init=path, **ADVERSARY)
    )
    assert_same(state.params, old.params)
    found, there = state.companions["discriminator"], old.companions["discriminator"]
    assert_same(found.params, there.params)
    assert_same(found.stats, there.stats)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found.opt_state))
    assert origin["weights"] == "params" and not takeover.notes
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)

    @jax.jit
    def reconstruct(params):
        model = nnx.merge(graphdef, params)
        return model.decode(model.encode(images).mode())

    loaded = load_functional(path, make_mesh(devices=jax.devices()[:1]))
    np.testing.assert_array_equal(reconstruct(state.params), reconstruct(loaded.params))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"discriminator__ndf": 8}, "discriminator starts fresh: the source's is of another arch"),
        ({"train__init_exclude": ("discriminator/*",)}, "discriminator starts fresh: excluded"),
        ({"vae_loss__disc_weight": 0.0}, None),
    ],
)
def test_a_discriminator_that_does_not_fit_is_fresh(tokenizer, changes, note):
    wanted = tiny.config("digits_vavae", **ADVERSARY, train__init=tokenizer[0])
    for key, value in changes.items():
        section, _, name = key.partition("__")
        wanted = tiny.replaced(wanted, section, **{name: value})
    takeover = plan_takeover(wanted, open_source(wanted), job_of(wanted)[2])
    assert not takeover.companions
    assert [line[: len(note)] for line in takeover.notes] == [note] if note else not takeover.notes


def test_a_discriminator_that_the_source_lacks_is_fresh(tmp_path):
    without = {**ADVERSARY, "vae_loss__disc_weight": 0.0}
    path, _ = write_source(tmp_path / "s", tiny.config("digits_vavae", **without))
    wanted = tiny.config("digits_vavae", **ADVERSARY, train__init=path)
    takeover = plan_takeover(wanted, open_source(wanted), job_of(wanted)[2])
    assert takeover.notes == ("discriminator starts fresh: the source has none",)
