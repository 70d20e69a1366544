"""The profiler's window, and the guard around a step."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.training.loop_cases import CONFIG, assert_same, records, run


def traces(workdir):
    return sorted((workdir / "profile").rglob("*.xplane.pb"))


def test_a_window_is_traced_and_changes_no_bit(tmp_path):
    plain, _ = run(tmp_path / "plain")
    state, lines = run(tmp_path / "traced", profile_steps=(5, 6))
    assert_same(state, plain)
    assert records(tmp_path / "traced") == records(tmp_path / "plain")
    [trace] = traces(tmp_path / "traced")
    assert b"PjitFunction(step)" in trace.read_bytes()
    assert not traces(tmp_path / "plain")
    [line] = [line for line in lines if "traced" in line]
    assert line.startswith(f"steps 5 to 6 are traced in {tmp_path}/traced/profile: xprof --logdir=")
    run(tmp_path / "traced", profile_steps=(5, 6))
    assert len(traces(tmp_path / "traced")) == 1, "a finished run was traced again"


@pytest.mark.slow
def test_a_window_that_is_cut_short_is_written_and_the_next_run_may_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, profile_steps=(5, 8), fail_at=6)
    assert len(traces(tmp_path)) == 1
    _, lines = run(tmp_path, profile_steps=(5, 6))  # from the checkpoint of step 3
    assert any(line.startswith("steps 5 to 6 are traced") for line in lines)


@pytest.mark.parametrize("steps", [(5,), (6, 5), (0, 3), (11, 13), (1, 2, 3)])
def test_what_is_no_window_is_refused(steps):
    with pytest.raises(
        ValueError, match=r"profile_steps is \(.*expected \(\) or a first and a last"
    ):
        dataclasses.replace(CONFIG, profile_steps=steps)


def test_a_step_that_sends_something_by_itself_is_refused(tmp_path):
    add = jax.jit(lambda state, batch, more: (state, {"loss": batch["x"] + more}))
    host = np.float32(1)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run(tmp_path, step_fn=lambda state, batch: add(state, batch, host))
