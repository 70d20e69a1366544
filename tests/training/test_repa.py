"""Tokens aligned with features of a vision model: the loss, whole runs, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from lightningdit_jax.atomic_file import read_json, write_json
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.latents import LatentShards, shard_name
from lightningdit_jax.data.latents_record import RECORD
from lightningdit_jax.models.projector import Projector, ProjectorConfig
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.held_out_data import open_held_out
from lightningdit_jax.training.job import open_source
from lightningdit_jax.training.repa import (
    Alignment,
    abstract_teacher,
    spatial_zscore,
    teacher_of,
)
from lightningdit_jax.training.run import train
from tests import tiny

# One worker has the program of the runs.
pytestmark = pytest.mark.xdist_group(__name__)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    folder = tiny.write_latents(tmp_path_factory.mktemp("latents"))
    tiny.write_features(folder)
    return folder


def config(latents, **changes):
    options = {
        "data__path": str(latents),
        "repa__features": "cached",
        "repa__depth": 1,
        "repa__projector_dim": 16,
        "optimizer__learning_rate": 0.01,
        "optimizer__warmup_steps": 0,
        "train__num_steps": 20,
        "train__log_every_steps": 5,
        "train__checkpoint_every_steps": 10,
    }
    return tiny.config("digits_dit", **options | changes)


def test_the_loss_is_minus_the_cosine_with_normalized_features():
    rng = np.random.default_rng(0)
    tokens, features = rng.normal(size=(2, 4, 6)), rng.normal(1.0, size=(2, 5, 2, 2))
    architecture = ProjectorConfig(6, 5, "mlp", 3)
    graphdef, state = nnx.split(Projector(architecture, rngs=nnx.Rngs(0)), nnx.Param)
    repa = tiny.config("digits_dit", repa__spatial_norm="zscore", repa__zscore_alpha=0.6).repa
    given = [jnp.float32(x) for x in (tokens, features)]

    def loss(output, tokens, features):
        alignment = Alignment(repa, graphdef, None)
        params = nnx.to_pure_dict(state)
        params["fc3"]["bias"] = output
        return alignment.losses(params, tokens, features, None).sum()

    found = jax.jit(jax.value_and_grad(loss))(jnp.arange(5.0), *given)
    x = tokens
    for number in (1, 2, 3):
        layer = nnx.to_pure_dict(state)[f"fc{number}"]
        x = x / (1 + np.exp(-x)) if number > 1 else x
        x = x @ np.asarray(layer["kernel"], float)
    x = x + np.arange(5.0)
    f = np.moveaxis(features, 1, -1).reshape(2, 4, 5)
    f = (f - 0.6 * f.mean(1, keepdims=True)) / (f.std(1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        spatial_zscore(given[1].reshape(2, 5, 4).mT, 0.6), f, rtol=2e-5, atol=1e-6
    )
    length, f = np.linalg.norm(x, axis=-1, keepdims=True), f / np.linalg.norm(f, axis=-1)[..., None]
    cosine = (x / length * f).sum(-1, keepdims=True)
    np.testing.assert_allclose(found[0], -cosine.mean(1).sum(), rtol=1e-5)
    gradient = -(f - cosine * x / length) / length / 4
    np.testing.assert_allclose(found[1], gradient.sum((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Others, with features of the same model."""
    folder = tiny.write_latents(tmp_path_factory.mktemp("held_out"), seed=1)
    tiny.write_features(folder)
    return folder


@pytest.fixture(scope="module")
def whole(latents, held_out, tmp_path_factory):
    """A run, its state, and the records of its metrics."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    validated = config(latents, data__valid_path=str(held_out), train__validate_every_steps=20)
    state = jax.device_get(train(validated, str(workdir)))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return workdir, state, [json.loads(line) for line in lines]


def test_a_run_learns_the_features(whole):
    _, state, records = whole
    *records, valid = records
    assert valid["valid/repa_loss"] < -0.3  # whose features are the same function of the latents
    assert valid["valid/loss"] == pytest.approx(valid["valid/mse"] + valid["valid/cosine"])
    losses = [record["repa_loss"] for record in records]
    assert losses[-1] < -0.5 < losses[0] - 0.2
    for record in records:
        want = record["mse"] + record["cosine"] + 0.5 * record["repa_loss"]
        np.testing.assert_allclose(record["loss"], want, rtol=1e-5)
    assert state.companions["repa_projector"].params["fc1"]["kernel"].shape == (32, 16)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits_and_on_another_mesh_with_the_same_numbers(
    latents, whole, tmp_path
):
    workdir, state, _ = whole
    for name, changes in (("same", {}), ("other", {"mesh__data": 2, "mesh__fsdp": 4})):
        shutil.copytree(workdir, tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "20")
        again = jax.device_get(train(config(latents, **changes), str(tmp_path / name)))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
            if changes:
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
            else:
                np.testing.assert_array_equal(a, b)


def test_held_out_latents_without_features_are_all_that_there_is(latents, held_out, capsys):
    given = {"data__valid_path": str(held_out), "train__validate_every_steps": 5}
    source = open_source(config(latents))
    for path in ("", str(held_out / "features")):
        validated = config(latents, **given, repa__valid_path=path)
        batch = open_held_out(validated, source).read_batch(np.arange(2), np.zeros(2, bool))
        assert "shown" in batch
    with pytest.raises(FileNotFoundError, match=r"^nowhere holds no features"):
        open_held_out(config(latents, **given, repa__valid_path="nowhere"), source)
    shutil.move(held_out / "features", held_out / "elsewhere")
    try:
        batch = open_held_out(config(latents, **given), source).read_batch(
            np.arange(2), np.zeros(2, bool)
        )
    finally:
        shutil.move(held_out / "elsewhere", held_out / "features")
    assert "shown" not in batch and "config.repa.valid_path says" in capsys.readouterr().out
    record = held_out / "features" / RECORD
    made = read_json(epath.Path(record))
    other = made | {"foundation": made["foundation"] | {"fingerprint": "another"}}
    write_json(epath.Path(record), other)
    try:
        with pytest.raises(ValueError, match=r"features of another model, another, than those"):
            open_held_out(config(latents, **given), source)
    finally:
        write_json(epath.Path(record), made)


def test_a_run_ends_as_it_began(latents, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "w")
    told = r"w/checkpoints holds a run with another companions: found repa_projector"
    for changes in ({"repa__features": "none"}, {"repa__projector_dim": 8}):
        with pytest.raises(ValueError, match=told):
            train(config(latents, **changes), str(tmp_path / "w"))


def test_images_in_the_loop_are_those_of_the_latents(tmp_path):
    """Row for row, mirrored where the latent is of the mirror image."""
    latents, digits = tmp_path / "latents", Digits("test", 16)
    count = len(digits)
    tiny.write_latents(latents, count=count)
    record = {"source": "digits", "count": count, "split": "test"}
    write_json(epath.Path(latents) / RECORD, {"images": record, "resolution": 16})
    options = {"repa__features": "computed", "frozen__foundation": "opened later"}
    source = open_source(config(latents, **options))
    batch = source.read_batch(np.array([7, 3, 7]), np.array([False, True, True]))
    want = np.stack([np.asarray(digits.image(i)) for i in (7, 3, 7)])
    want[1:] = want[1:, :, ::-1]
    np.testing.assert_array_equal(batch["shown"], want)
    plain = LatentShards(latents).read_stored(np.array([7, 3, 7]), np.array([False, True, True]))
    np.testing.assert_array_equal(batch["latents"], plain)
    write_json(epath.Path(latents) / RECORD, {"images": record | {"split": "train"}})
    with pytest.raises(ValueError, match=r"extraction\.json that says which image"):
        open_source(config(latents, **options))
    write_json(epath.Path(latents) / RECORD, {"images": record | {"count": 999}, "resolution": 16})
    with pytest.raises(ValueError, match=r"repa\.path.* other images .*count 355 there, 999 of"):
        open_source(config(latents, **options))


def damaged(folder, what):
    """Harms the features of a copied folder of latents."""
    features = folder / "features"
    shard = features / shard_name(0, 1)
    if what == "none":
        shutil.rmtree(features)
    elif what == "shard":
        shard.unlink()
    elif what == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif what == "images":
        write_json(epath.Path(folder) / RECORD, {"images": {"count": 24}, "resolution": 16})
    elif what == "grid":
        record = read_json(epath.Path(features) / RECORD)
        record["features"]["grid"] = 16
        write_json(epath.Path(features) / RECORD, record)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("none", r"latents/features holds no features .* --mode=extract and config\.extract\.feat"),
        ("shard", r"features lacks 1 of the files .*_shard001"),
        ("truncated", r"shard001\.safetensors is truncated"),
        ("images", r"features of other images than .*: images source digits there, None here"),
        ("grid", r"16x16 patches, but the model has 4x4 tokens; .*extract\.features_grid=4"),
    ],
)
def test_features_that_do_not_fit_are_refused(latents, tmp_path, what, message):
    shutil.copytree(latents, tmp_path / "latents")
    damaged(tmp_path / "latents", what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(tmp_path / "latents"), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repa__depth": 3}, r"config\.repa\.depth is 3; .* at most depth=2"),
        ({"repa__features": "computed"}, r"config\.frozen\.foundation is empty, but config\.repa"),
        ({"repa__path": "nothing"}, r"^nothing holds no features"),
    ],
)
def test_keys_that_do_not_fit_are_refused(latents, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(latents, **changes), str(tmp_path / "w"))


def test_without_a_checkpoint_the_teacher_is_the_published_one_and_has_no_weights():
    """DINOv2 ViT-B/14 has 86,580,480 parameters with its token of masked patches."""
    asked, mesh = tiny.config("dit_xl_repae"), make_mesh(devices=jax.devices()[:1])
    teacher = abstract_teacher(asked, mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(teacher.network.params))
    assert (teacher.width, count) == (768, 86_580_480 - 768)
    with pytest.raises(ValueError, match=r"config\.frozen\.foundation is empty"):
        teacher_of(asked, mesh)


def test_features_that_are_not_finite_are_named(latents, tmp_path):
    shutil.copytree(latents, tmp_path / "latents")
    source = open_source(config(tmp_path / "latents"))
    assert source.find_unfit(np.arange(24), np.zeros(24, bool)) == []
    path = tmp_path / "latents" / "features" / shard_name(0, 2)
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()  # of the last mirror image
    path.write_bytes(bytes(content))
    source = open_source(config(tmp_path / "latents"))
    flip = np.arange(24) > 20
    [found] = source.find_unfit(np.arange(24), flip)
    assert found.startswith("features of record 23") and "row 7 of latents_flip" in found
