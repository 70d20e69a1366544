"""A plan that turns out too large."""

import jax
import numpy as np
import pytest

from lightningdit_jax.planning.plan import Plan
from lightningdit_jax.training import run
from lightningdit_jax.training.run import train
from tests import tiny

MESH = {"data": 8, "fsdp": 1, "tensor": 1, "dcn_data": 1}
PLANS = [Plan(MESH, "none", 1, 3e9, 1.0), Plan(MESH, "block", 2, 1e9, 2.0)]
MESSAGE = "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore of it"


@pytest.fixture
def config(tmp_path):
    latents = str(tiny.write_latents(tmp_path / "latents", count=32))
    return tiny.config("digits_dit", data__path=latents, train__batch_size=16, train__num_steps=6)


@pytest.fixture
def planned(monkeypatch, request):
    """Two plans, whatever the devices; the first fails at its third step, or the one said."""
    fails_at = getattr(request, "param", 2)
    made = run.training_plans
    monkeypatch.setattr(run, "training_plans", lambda c, h: (PLANS, made(c, h)[1]))
    compile_ready = run.compile_ready

    def failing(job, config, *rest):
        init_state, step_fn, abstract = compile_ready(job, config, *rest)

        def step(state, *batch):
            if config.compute.remat == "none" and int(state.step) == fails_at:
                raise jax.errors.JaxRuntimeError(MESSAGE)
            return step_fn(state, *batch)

        return init_state, step, abstract

    monkeypatch.setattr(run, "compile_ready", failing)


@pytest.mark.slow
def test_the_next_plan_goes_on_as_if_it_had_been_the_first(config, planned, tmp_path, capsys):
    state = train(config, str(tmp_path / "retried"))
    said = capsys.readouterr().out
    assert "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.; going on" in said
    assert "remat block, the batch in 2 parts" in said and "what was faster did not fit" in said
    alone = train(PLANS[1].applied(config), str(tmp_path / "alone"))
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("planned", [0], indirect=True)
def test_stop_names_the_next_plan(config, planned, tmp_path):
    config = config.changed(compute={"on_oom": "stop"})
    flags = r"--config\.compute\.remat=block --config\.train\.accumulate_steps=2"
    with pytest.raises(
        ValueError, match=rf"out of memory: .*99 bytes\.; what may fit is .*{flags}"
    ):
        train(config, str(tmp_path / "w"))


def test_other_errors_of_the_runtime_are_not_taken_for_it(config, tmp_path, monkeypatch):
    def broken(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(run, "_train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        train(config, str(tmp_path / "w"))
