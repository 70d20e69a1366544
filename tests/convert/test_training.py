"""A run that PyTorch began goes on: golden/checkpoints/release_full.pt, two steps of AdamW."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.checkpoint import (
    TrainingCheckpoints,
    find_checkpoint,
    item_names,
    read_arrays,
)
from lightningdit_jax.checkpoint import read_meta as meta_of
from lightningdit_jax.checkpoint_reading import array_metadata
from lightningdit_jax.convert.convert import abstract_params, params_from_torch, params_to_torch
from lightningdit_jax.convert.files import convert_run
from lightningdit_jax.convert.keymap import ConversionError
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.convert.training import convert_training, read_adam
from lightningdit_jax.mapped_file import MappedFile
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.torch_reader import read_torch
from lightningdit_jax.training.job import make_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.restore import restore_state
from lightningdit_jax.training.run import compile_ready, train
from tests import tiny
from tests.golden import GOLDEN

FILE = GOLDEN / "checkpoints" / "release_full.pt"
SETTINGS = {
    "optimizer__learning_rate": 2e-4,
    "optimizer__beta1": 0.9,
    "optimizer__beta2": 0.95,
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": 0,
    "optimizer__weight_decay": 0.0,
    "optimizer__max_grad_norm": 0.0,
}


@pytest.fixture(scope="module")
def content():
    return read_torch(FILE, MappedFile(FILE))


@pytest.fixture(scope="module")
def tensors():
    return read_source(FILE, "model").tensors


@pytest.fixture(scope="module")
def names(tensors):
    """Of the parameters, in the order of module.parameters()."""
    return [name for name in tensors if not name.startswith("feat_rope.")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    convert_training(str(FILE), str(folder), say=lambda line: None)
    return folder


def config_of(workdir, **changes):
    architecture = meta_of(find_checkpoint(str(workdir)))["architecture"]
    keys = {f"model__{name}": value for name, value in architecture.items()}
    return tiny.config("digits_dit", **SETTINGS | keys | changes)


def restored(workdir, optimizer):
    """Weights and the optimizer's state, as a run restores them."""
    found = find_checkpoint(str(workdir))
    architecture, _ = params_from_torch("lightningdit", read_source(FILE, "model").tensors)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_params("lightningdit", architecture),
    )
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, abstract),
    )
    params = read_arrays(found, "params", abstract)
    return architecture, params, read_arrays(found, "opt_state", state)


def numpy_adamw(params, opt, names, grads):
    """The third step as PyTorch's documentation has it, in its names. float64."""
    (group,) = opt["param_groups"]
    (beta1, beta2), rate, eps = group["betas"], group["lr"], group["eps"]
    after = {}
    for index, name in enumerate(names):
        if name == "pos_embed":
            continue
        entry, grad = opt["state"][index], grads[name].astype(np.float64)
        step = int(entry["step"]) + 1
        first = beta1 * entry["exp_avg"].astype(np.float64) + (1 - beta1) * grad
        second = beta2 * entry["exp_avg_sq"].astype(np.float64) + (1 - beta2) * grad**2
        root = np.sqrt(second / (1 - beta2**step)) + eps
        after[name] = params[name] - rate * first / (1 - beta1**step) / root
    return after


def test_the_next_step_is_that_of_adamw_in_the_releases_names(workdir, content, tensors, names):
    optimizer = make_optimizer(config_of(workdir).optimizer, 10)
    architecture, params, state = restored(workdir, optimizer)
    rng = np.random.default_rng(0)
    grads = {
        name: (0.01 * rng.normal(size=tensors[name].shape)).astype(np.float32) for name in names
    }
    grads["pos_embed"][:] = 0
    buffers = {name: value for name, value in tensors.items() if name not in grads}
    _, ours = params_from_torch("lightningdit", grads | buffers)

    def third_step(grads, state, params):
        updates, _ = optimizer.update(grads, state, params, step=jnp.int32(2))
        return optax.apply_updates(params, updates)

    after = jax.tree.map(np.asarray, jax.jit(third_step)(ours, state, params))
    got = params_to_torch("lightningdit", architecture, after)
    want = numpy_adamw(tensors, content["opt"], names, grads)
    for name, value in want.items():
        moved = np.abs(value - tensors[name]).max()
        assert moved > 1e-4, name
        np.testing.assert_allclose(got[name], value, rtol=3e-7, atol=1e-5 * moved, err_msg=name)
    np.testing.assert_array_equal(got["pos_embed"], tensors["pos_embed"])


def test_averages_are_the_files(workdir, content):
    found = find_checkpoint(str(workdir))
    average = read_source(FILE, "ema").tensors
    _, want = params_from_torch("lightningdit", average)
    got = read_arrays(found, "ema", jax.tree.map(jnp.asarray, want))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert item_names(found) >= {"params", "ema", "opt_state", "step", "meta", "loop"}
    assert array_metadata(found, "step")["step"].shape == ()
    raw = content["model"]["module.t_embedder.mlp.0.bias"]
    assert not np.array_equal(raw, average["t_embedder.mlp.0.bias"])


def test_a_run_restores_it(tmp_path, workdir):
    latents = tiny.write_latents(tmp_path, channels=4, classes=3)
    config = config_of(workdir, data__path=str(latents))
    mesh = make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, 10)
    _, _, abstract = compile_ready(make_job(config, mesh), config, mesh, optimizer)
    checkpoints = TrainingCheckpoints(str(workdir), keep=2)
    state, step, loop = restore_state(checkpoints, abstract, print)
    checkpoints.close()
    assert (step, int(state.step), loop["data"]) == (2, 2, {"next_index": 2})
    assert int(state.opt_state[0].count) == 2 and state.ema is not None


@pytest.mark.slow
def test_training_goes_on_at_that_step(tmp_path, workdir, capsys):
    latents = tiny.write_latents(tmp_path, channels=4, classes=3)
    config = config_of(workdir, data__path=str(latents), train__num_steps=3, train__batch_size=8)
    state = train(config, str(workdir))
    assert int(state.step) == 3 and int(state.opt_state[0].count) == 3
    assert "resumed from step 2" in capsys.readouterr().out
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]


def test_the_files_name_is_the_step_where_it_is_a_number(tmp_path):
    """As the release names it; its resumption begins Adam's count anew."""
    (tmp_path / "0000700.pt").write_bytes(FILE.read_bytes())
    lines = []
    found = convert_training(str(tmp_path / "0000700.pt"), str(tmp_path / "w"), say=lines.append)
    assert found.name == "700" and meta_of(found)["step"] == 700
    assert "step 700, params, ema and AdamW after 2 steps" in lines[0]
    with pytest.raises(FileExistsError, match="choose another workdir"):
        convert_training(str(tmp_path / "0000700.pt"), str(tmp_path / "w"))


def damaged(opt, change):
    copy = {
        "state": {index: dict(entry) for index, entry in opt["state"].items()},
        "param_groups": [g | {"params": list(g["params"])} for g in opt["param_groups"]],
    }
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: o["state"].pop(3), ["missing: exp_avg of t_embedder.mlp.0.weight"]),
        (lambda o: o["state"][3].update(step=np.float32(9)), ["different numbers of steps"]),
        (lambda o: o["state"][1].update(max_exp_avg_sq=1), ["unknown: max_exp_avg_sq of x_embed"]),
        (lambda o: o["param_groups"][0]["params"].__delitem__(0), ["counts 24 parameters"]),
        (lambda o: o.pop("param_groups"), ["expected a mapping with 'state'"]),
        (lambda o: o["state"].clear(), ["missing: step of x_embedder.proj.bias"]),
        (
            lambda o: (o["state"].pop(4), o["state"][5].pop("exp_avg")),
            ["missing: step of t_embedder.mlp.0.bias", "missing: exp_avg of t_embedder.mlp.2.wei"],
        ),
    ],
)
def test_another_optimizers_state_is_refused_with_everything_listed(content, names, change, said):
    opt = damaged(content["opt"], change)
    with pytest.raises(ConversionError) as raised:
        read_adam(opt, names)
    assert all(text in str(raised.value) for text in said), str(raised.value)


def test_moments_of_other_shapes_are_refused_and_nothing_is_written(tmp_path, monkeypatch, content):
    def change(opt):
        opt["state"][3]["exp_avg"] = np.zeros((2, 2), np.float32)
        opt["state"][5]["exp_avg"] = np.zeros((3,), np.float32)

    opt = damaged(content["opt"], change)
    monkeypatch.setattr(
        "lightningdit_jax.convert.training.read_torch", lambda *_: content | {"opt": opt}
    )
    with pytest.raises(ConversionError) as raised:
        convert_training(str(FILE), str(tmp_path / "w"))
    assert len(raised.value.problems) == 2 and "'exp_avg' does not fit" in str(raised.value)
    assert not (tmp_path / "w").exists()


def test_files_without_a_run_are_refused(tmp_path):
    for name, said in [("bare_state_dict.pt", "holds the file"), ("vavae_state_dict.pt", "holds")]:
        path = str(GOLDEN / "checkpoints" / name)
        with pytest.raises(ValueError, match=said):
            convert_training(path, str(tmp_path / "w"))
    with pytest.raises(ValueError, match="found 2"):
        convert_run([str(FILE), str(FILE)], str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def test_the_command(tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "convert_torch_weights.py", "--to-workdir", "--src", FILE, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    stats = GOLDEN / "latents" / "latents_stats.pt"
    done = command("--dst", tmp_path / "w", "--kind", "lightningdit", "--latent-stats", stats)
    assert done.returncode == 2 and "leave --kind" in done.stderr and not (tmp_path / "w").exists()
    # What one that was killed has left.
    (tmp_path / "w" / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    done = command("--dst", tmp_path / "w", "--latent-stats", "none")
    assert done.returncode == 0, done.stderr
    assert meta_of(find_checkpoint(str(tmp_path / "w")))["latents"]["multiplier"] == 1.0
