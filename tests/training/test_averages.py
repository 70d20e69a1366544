"""Several averages of one run: their numbers, their items, restarts that add and drop some."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.checkpoint import find_checkpoint, item_names
from lightningdit_jax.training.run import train
from tests import tiny
from tests.training.loop_cases import CONFIG, assert_same, records, run


def averaged(weights, decay):
    """By the definition, in float64: a copy of the first weights, then one mean a step."""
    average = weights[0]
    for w in weights[1:]:
        average = decay * average + (1 - decay) * w
    return average


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """After 0 ... 12 steps."""
    seen = [np.ones(3)]
    for steps in range(1, 13):
        workdir = tmp_path_factory.mktemp("weights")
        state, _ = run(workdir, num_steps=steps, checkpoint_every_steps=20)
        seen.append(np.asarray(state.params["w"], np.float64))
    return seen


def test_each_average_has_its_decay_and_its_item(weights, tmp_path):
    state, _ = run(tmp_path, ema_decays=(0.5, 0.75))
    for name, decay in {"ema": 0.9, "ema_0.5": 0.5, "ema_0.75": 0.75}.items():
        wanted = averaged(weights, decay)
        np.testing.assert_allclose(state.averages[name]["w"], wanted, rtol=1e-6)
    plain, _ = run(tmp_path / "plain")
    assert_same((plain.params, plain.ema), (state.params, state.ema))
    items = {item for item in item_names(find_checkpoint(str(tmp_path))) if "ema" in item}
    assert items == {"ema", "ema_0.5", "ema_0.75"}


@pytest.mark.parametrize("fail_at", [5, 8])
def test_a_kill_changes_no_bit_of_any(tmp_path, fail_at):
    whole, _ = run(tmp_path / "whole", ema_decays=(0.5,))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", ema_decays=(0.5,), fail_at=fail_at)
    killed, _ = run(tmp_path / "killed", ema_decays=(0.5,))
    assert_same(killed, whole)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


def test_averages_that_are_added_and_dropped_are_said(weights, tmp_path):
    run(tmp_path, num_steps=6, ema_decays=(0.5,))
    state, lines = run(tmp_path, num_steps=9, ema_decays=(0.75,))
    [added] = [line for line in lines if "start as a copy" in line]
    [dropped] = [line for line in lines if "end here" in line]
    assert added.startswith("step 6 has no averaged weights ema_0.75: they start as a copy")
    assert dropped.startswith(
        "config.train.ema_decays is without its decay: the averaged weights ema_0.5 of step 6 end"
    )
    assert state.averages.keys() == {"ema", "ema_0.75"}
    np.testing.assert_allclose(state.ema["w"], averaged(weights[:10], 0.9), rtol=1e-6)
    wanted = averaged(weights[6:10], 0.75)
    np.testing.assert_allclose(state.averages["ema_0.75"]["w"], wanted, rtol=1e-6)


@pytest.mark.parametrize("decays", [(0.5, 0.5), (0.9,)])
def test_the_same_average_twice_is_refused(decays):
    with pytest.raises(ValueError, match=r"ema_decays is .* expected decays that differ from each"):
        dataclasses.replace(CONFIG, ema_decays=decays)


@pytest.mark.slow
def test_a_run_on_a_mesh_keeps_them_and_load_takes_them(tmp_path):
    config = tiny.config(
        "digits_dit",
        data__path=str(tiny.write_latents(tmp_path / "latents")),
        mesh__fsdp=2,
        model__depth=1,
        train__ema_decay=0.9,
        train__ema_decays=(0.5,),
        train__ema_sigmas=(0.1,),
        train__snapshot_every_steps=2,
        train__num_steps=2,
    )
    workdir = str(tmp_path / "workdir")
    state = train(config, workdir)
    for average, wanted in state.averages.items():
        for leaf, param in zip(jax.tree.leaves(wanted), jax.tree.leaves(state.params), strict=True):
            assert leaf.sharding == param.sharding
        chosen = {
            "ema": {},
            "ema_0.5": {"ema_decay": 0.5},
            "ema_sigma_0.1": {"ema_sigma": 0.1},
        }[average]
        loaded = nnx.to_pure_dict(nnx.state(ldj.load(workdir, **chosen), nnx.Param))
        assert_same(loaded, jax.device_get(wanted))
    halves = nnx.to_pure_dict(
        nnx.state(ldj.load(f"{workdir}/snapshots/2", ema_sigma=0.1), nnx.Param)
    )
    assert_same(halves, jax.tree.map(np.float16, state.averages["ema_sigma_0.1"]))
    names = ("ema", "ema_0.5")
    one, other = (jax.device_get(state.averages[name]["final_layer"]) for name in names)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))
    with pytest.raises(
        ValueError, match=r"/2 has no average 'ema_0\.7'; there are: ema, ema_0\.5;"
    ):
        ldj.load(workdir, ema_decay=0.7)
