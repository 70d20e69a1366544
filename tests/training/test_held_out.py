"""The loss of a generator on held-out latents, in whole runs and by itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.metrics_log import TIMED
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.training.dit_held_out import make_dit_held_out
from lightningdit_jax.training.held_out import SEED, HeldOut
from lightningdit_jax.training.job import make_job, state_rules
from lightningdit_jax.training.run import train
from tests import tiny
from tests.training.loop_cases import assert_same

pytestmark = pytest.mark.xdist_group(__name__)  # one worker makes what its tests share

COUNT = 19  # of 20 held-out examples: no multiple of any batch


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    return {
        "data__path": str(tiny.write_latents(root / "train")),
        "data__valid_path": str(tiny.write_latents(root / "valid", count=20, seed=1)),
    }


def config(folders, **changes):
    settings = {
        "model__depth": 1,
        "compute__dtype": "float32",
        "optimizer__learning_rate": 0.02,
        "optimizer__warmup_steps": 0,
        "train__num_steps": 5,
        "train__ema_decay": 0.5,
        "train__validate_every_steps": 2,
        "train__validate_examples": COUNT,
        "train__best_metric": "valid/ema_mse",
    }
    return tiny.config("digits_dit", **settings | folders | changes)


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    every = [{k: v for k, v in json.loads(n).items() if k not in TIMED} for n in lines]
    held_out = [r for r in every if any(name.startswith("valid/") for name in r)]
    return held_out, [r for r in every if r not in held_out]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(config(folders), str(workdir))


def expected(folders, params):
    """In float64 but for the network, an example at a time, from the definitions."""
    settings = config(folders)
    shards = LatentShards(folders["data__valid_path"])
    stats = tiny.load_scaling(folders["data__path"])
    mean, std = (np.asarray(x, np.float64) for x in (stats.mean, stats.std))
    job = make_job(settings, make_mesh(devices=jax.devices()[:1]))
    model = nnx.merge(job.graphdef(), params)
    assert isinstance(model, LightningDiT)
    rows = []
    for i in range(COUNT):
        x1 = (shards.read(np.array([i]), np.zeros(1, bool)).astype(np.float64) - mean) / std
        key = jax.random.fold_in(jax.random.key(SEED), i)
        x0 = np.asarray(jax.random.normal(key, x1.shape[1:]), np.float64)[None]
        bits = f"{i + 1:b}"
        u = sum(int(bit) / 2 ** (k + 1) for k, bit in enumerate(reversed(bits)))
        z = np.sqrt(2) * float(jax.scipy.special.erfinv(2 * u - 1))
        t = 1 / (1 + np.exp(-z))
        x = jnp.asarray(t * x1 + (1 - t) * x0, jnp.float32)
        y = jnp.asarray(shards.labels[[i]], jnp.int32)
        v = np.asarray(model(x, jnp.full(1, t, jnp.float32), y), np.float64)
        want = x1 - x0
        mse = np.mean((v - want) ** 2)
        norms = np.linalg.norm(v, axis=-1) * np.linalg.norm(want, axis=-1)
        rows.append((t, mse, np.mean(1 - np.sum(v * want, -1) / norms)))
    t, mse, cosine = np.array(rows).T
    terms = {"loss": mse + cosine, "mse": mse, "cosine": cosine}
    numbers = {name: values.mean() for name, values in terms.items()}
    for k in range(4):
        quarter = (t >= k / 4) & (t < (k + 1) / 4)
        numbers |= {f"{name}_t{k}": values[quarter].mean() for name, values in terms.items()}
    return numbers


def test_the_numbers_are_those_of_the_definition(trained, folders):
    workdir, state = trained
    held_out, _ = records(workdir)
    assert [record["step"] for record in held_out] == [2, 4, 5]
    last = {name: value for name, value in held_out[-1].items() if name != "step"}
    raw, averaged = (expected(folders, jax.device_get(p)) for p in (state.params, state.ema))
    want = {f"valid/{name}": value for name, value in raw.items()}
    want |= {f"valid/ema_{name}": value for name, value in averaged.items()}
    assert last.keys() == want.keys()
    for name, value in want.items():
        assert last[name] == pytest.approx(value, rel=2e-4), name
    assert last["valid/mse"] != pytest.approx(last["valid/ema_mse"], rel=1e-3)


def test_training_and_its_records_are_the_same_bits(trained, folders, tmp_path):
    workdir, state = trained
    off = {"train__validate_every_steps": 0, "train__best_metric": "", "data__valid_path": ""}
    assert_same(state, train(config(folders, **off), str(tmp_path)))
    assert records(tmp_path) == ([], records(workdir)[1])


def test_the_lowest_is_the_best(trained):
    workdir, _ = trained
    values = {record["step"]: record["valid/ema_mse"] for record in records(workdir)[0]}
    best = read_meta(find_checkpoint(str(workdir / "best")))
    step = min(values, key=values.get)
    assert (best["step"], best["best"]) == (
        step,
        {"metric": "valid/ema_mse", "value": values[step]},
    )


@pytest.mark.slow
def test_a_restart_makes_up_for_a_missed_one(trained, folders, tmp_path):
    """Whose record, the last of step 2, a kill took away."""
    workdir, state = trained
    train(config(folders, train__num_steps=2), str(tmp_path))
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(n + "\n" for n in path.read_text().splitlines() if "valid/" not in n))
    assert records(tmp_path)[0] == []
    assert_same(state, train(config(folders), str(tmp_path)))
    assert records(tmp_path) == records(workdir)


@pytest.mark.parametrize(("devices", "fsdp", "batch"), [(1, 1, 3), (1, 1, 64), (8, 4, 8)])
def test_batches_and_devices_change_nothing(trained, folders, devices, fsdp, batch):
    workdir, state = trained
    mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    settings = config(folders)
    job = make_job(settings, mesh)
    scaling = tiny.load_scaling(folders["data__path"])
    abstract = abstract_on_mesh(jax.eval_shape(lambda: state), mesh, state_rules("lightningdit"))
    held_out = HeldOut(
        make_dit_held_out(job.graphdef(), settings, scaling=scaling),
        LatentBatches(LatentShards(folders["data__valid_path"]), scaling),
        mesh,
        count=COUNT,
        batch_size=batch,
        abstract=abstract,
    )
    on_mesh = jax.tree.map(
        lambda leaf, like: jax.device_put(np.asarray(leaf), like.sharding), state, abstract
    )
    numbers = held_out(5, on_mesh)
    assert numbers.keys() == set(held_out.names)
    last = records(workdir)[0][-1]
    for name, value in numbers.items():
        assert value == pytest.approx(last[f"valid/{name}"], rel=1e-5), name


def valid_folder(folders, tmp_path, **changes):
    return {**folders, "data__valid_path": str(tiny.write_latents(tmp_path / "valid", **changes))}


def of_tokenizer(folder, fingerprint):
    path = folder / "extraction.json"
    path.write_text(json.dumps({"tokenizer": fingerprint}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": 4},
            r"valid holds latents of 4 channels, but config\.model\.in_channels is 8",
        ),
        ({"size": 8}, r"valid holds latents of 8x8, but config\.model\.input_size is 4"),
        ({"classes": 11}, r"valid holds labels from 0 to 10, but config\.model\.num_classes is 10"),
    ],
)
def test_latents_that_do_not_fit_are_refused(folders, tmp_path, changes, message):
    folders = valid_folder(folders, tmp_path, **changes)
    refused(folders, tmp_path, message)


def refused(folders, tmp_path, message, **changes):
    workdir = tmp_path / "w"
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        train(config(folders, **changes), str(workdir))
    assert "\n" not in str(raised.value) and not workdir.exists()


def test_folders_that_are_not_there_or_empty_are_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in {
        "nothing": r"nothing: no such folder of latents\. Set config\.data\.valid_path to",
        "empty": r"empty holds no latents_rank.* or point config\.data\.valid_path to",
    }.items():
        refused({**folders, "data__valid_path": str(tmp_path / name)}, tmp_path, message)
    message = (
        r"validate_every_steps is 2, but nothing is held out; set config\.data\.valid_path, or"
    )
    refused({**folders, "data__valid_path": ""}, tmp_path, message)
    same = {**folders, "data__valid_path": folders["data__path"]}
    refused(same, tmp_path, r"valid_path is .*train, which is trained on")


def test_latents_of_another_tokenizer_are_refused(folders, tmp_path):
    both = {}
    for key, (name, made_by) in {
        "data__path": ("train", "aaaa"),
        "data__valid_path": ("valid", "bbbb"),
    }.items():
        folder = tiny.write_latents(tmp_path / name)
        of_tokenizer(folder, made_by)
        both[key] = str(folder)
    message = r"valid holds latents of another tokenizer, bbbb, than .*train, aaaa; extract both"
    refused(both, tmp_path, message)


def test_a_best_metric_that_is_no_number_is_refused(folders, tmp_path):
    best = {"train__best_metric": "valid/ema_mes"}
    refused(folders, tmp_path, r"'valid/ema_mes'; did you mean 'valid/ema_mse'", **best)
    with pytest.raises(ValueError, match=r"is 'valid/mse', but .* config\.train\.validate_every"):
        config(folders, train__best_metric="valid/mse", train__validate_every_steps=0)


def test_the_times_are_quantiles_of_the_law(folders):
    """Of a large number of examples: each quarter has its share of the law, and so has any few."""
    settings = config(folders, flow__logit_mean=0.5, flow__logit_std=2.0)
    job = make_job(settings, make_mesh(devices=jax.devices()[:1]))
    t = make_dit_held_out(
        job.graphdef(), settings, scaling=tiny.load_scaling(folders["data__path"])
    )
    t = t.columns(np.arange(4096))["t"]
    drawn = 1 / (1 + np.exp(-(0.5 + 2.0 * np.random.default_rng(0).normal(size=400_000))))
    for part in (t, t[:64], t[100:400]):
        got = np.quantile(part, [0.1, 0.25, 0.5, 0.75, 0.9])
        np.testing.assert_allclose(got, np.quantile(drawn, [0.1, 0.25, 0.5, 0.75, 0.9]), atol=0.03)
    shifted = settings.changed(flow={"timestep_shift": 0.5})
    shifted = make_dit_held_out(job.graphdef(), shifted, scaling=LatentScaling())
    np.testing.assert_allclose(
        shifted.columns(np.arange(64))["t"], 0.5 * t[:64] / (1 - 0.5 * t[:64]), rtol=1e-5
    )
