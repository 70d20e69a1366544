"""A few hundred steps leave no more open files, threads and arrays than the first ones did.

`python -m benchmarks.long_run` is the long version, on a real generator.
"""

import os
import time

import jax
import numpy as np

from tests.training.loop_cases import Counter, records, run

EVERY = 20


def held():
    """Open files, threads of the system, arrays."""
    tasks = len(os.listdir("/proc/self/task"))
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": tasks,
        "arrays": len(jax.live_arrays()),
    }


def settled(most):
    """As `held`, once what is written in the background is: within a few seconds at most `most`."""
    until = time.monotonic() + 5
    while any(held()[name] > most[name] for name in most) and time.monotonic() < until:
        time.sleep(0.01)
    return held()


def test_nothing_is_held_longer_with_every_checkpoint_record_and_evaluation(tmp_path):
    """Also after steps that are skipped; an evaluation is what looks."""
    seen = []

    def evaluator(step, state):
        if len(seen) < 2:  # what the first ones start stays: pools of threads, caches
            time.sleep(0.5)
            seen.append(held())
        else:
            seen.append(settled(seen[1]))
        return {"fid": float(len(seen))}

    run(
        tmp_path,
        iterator=Counter(nan_at=range(50, 300, 50)),
        evaluator=evaluator,
        num_steps=300,
        nonfinite="skip",
        max_nonfinite=10,
        spikes="skip",
        log_every_steps=2,
        checkpoint_every_steps=EVERY,
        evaluate_every_steps=EVERY,
        best_metric="fid",
    )
    assert len(seen) == 300 // EVERY
    for later in seen[2:]:
        assert all(later[name] <= seen[1][name] for name in later), (seen[1], later)
    assert len(records(tmp_path)) == 150 + len(seen)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert np.isfinite([r["loss"] for r in records(tmp_path) if "loss" in r]).all()
