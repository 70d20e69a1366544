"""A few hundred steps leave no more open files, threads and arrays than the first ones did.

`python -m benchmarks.long_run` is the long version, on a real generator.
"""

import gc
import os
import time

import jax

from tests.training.loop_cases import Counter, records, run

STEPS, EVERY = 240, 20
# Pools start a thread when none of theirs is idle; one a checkpoint would be 6 in the second half.
SLACK = {"files": 0, "threads": 4, "arrays": 0, "objects": 150}


def held():
    """Open files, threads of the system, arrays, and what Python's collector knows."""
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "arrays": len(jax.live_arrays()),
        "objects": len(gc.get_objects()),
    }


def test_nothing_is_held_longer_with_every_checkpoint_record_and_evaluation(tmp_path):
    """Also after steps that are skipped; an evaluation is what looks, when all is written."""
    seen = []

    def evaluator(step, state):
        until = time.monotonic() + 60
        while not (tmp_path / "checkpoints" / str(step)).exists() and time.monotonic() < until:
            time.sleep(0.01)
        # What is held for good is there each time, what is held for a moment is not.
        gc.collect()
        times = []
        for _ in range(5):
            time.sleep(0.04)
            times.append(held())
        seen.append({name: min(t[name] for t in times) for name in SLACK})
        return {"fid": float(len(seen))}

    run(
        tmp_path,
        iterator=Counter(nan_at=range(50, STEPS, 50)),
        evaluator=evaluator,
        num_steps=STEPS,
        nonfinite="skip",
        max_nonfinite=10,
        spikes="skip",
        log_every_steps=2,
        checkpoint_every_steps=EVERY,
        evaluate_every_steps=EVERY,
        best_metric="fid",
    )
    assert len(seen) == STEPS // EVERY
    half = len(seen) // 2
    for name, slack in SLACK.items():
        first, second = ([found[name] for found in part] for part in (seen[:half], seen[half:]))
        assert max(second) <= max(first) + slack, (name, first, second)
    assert len(records(tmp_path)) == STEPS // 2 + len(seen)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
