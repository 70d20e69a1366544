"""One process of a training job of the tiny generator: WORKDIR LATENTS CHANGES_AS_JSON.

With FAIL_PROCESS set, that process cannot read its fourth batch.
"""

import json
import os
import sys

from jax._src import distributed

from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.inference.quality.training_pictures import make_training_picture
from lightningdit_jax.parallel.ending import failing_together
from lightningdit_jax.parallel.multihost import initialize
from lightningdit_jax.training import run
from tests import tiny


def break_data() -> None:
    """Reading stops at the fourth batch, as at a damaged file that only this process reads."""
    read, count = LatentBatches.read_batch, 0

    def read_batch(*arguments, **options):
        nonlocal count
        count += 1
        if count > 3:
            raise ValueError("shard 7 is damaged")
        return read(*arguments, **options)

    LatentBatches.read_batch = read_batch


def meet_after_compiling() -> None:
    """Gloo waits 30 s at the first step; on a busy machine compiling drifts further apart."""
    compile_ready = run.compile_ready

    def compile_and_meet(*arguments):
        init_state, step_fn, abstract = compile_ready(*arguments)
        compiled = None

        def step(*arguments):
            nonlocal compiled
            if compiled is None:
                compiled = step_fn.lower(*arguments).compile()
                distributed.global_state.client.wait_at_barrier("compiled", 600_000)
            return compiled(*arguments)

        return init_state, step, abstract

    run.compile_ready = compile_and_meet


def main(workdir: str, latents: str, changes: str) -> None:
    initialize(heartbeat_seconds=10)
    if os.environ.get("FAIL_PROCESS") == os.environ["JAX_PROCESS_ID"]:
        break_data()
    config = tiny.config(
        "digits_dit", data__path=latents, train__log_every_steps=1, **json.loads(changes)
    )
    meet_after_compiling()
    with failing_together():
        run.train(config, workdir, make_picture=make_training_picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
