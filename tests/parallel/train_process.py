"""One process of a training job of the tiny generator: WORKDIR LATENTS CHANGES_AS_JSON.

With FAIL_PROCESS set, that process cannot read its fourth batch.
"""

import json
import os
import sys

from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.parallel.multihost import initialize
from lightningdit_jax.training.run import train
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


def main(workdir: str, latents: str, changes: str) -> None:
    initialize(heartbeat_seconds=10)
    if os.environ.get("FAIL_PROCESS") == os.environ["JAX_PROCESS_ID"]:
        break_data()
    config = tiny.config(
        "digits_dit", data__path=latents, train__log_every_steps=1, **json.loads(changes)
    )
    train(config, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
