"""Extraction as one process of a job; run by test_extract.py: TOKENIZER LATENTS.

Of two processes, each then loses what a kill would have kept from it, and all goes on.
"""

import pathlib
import sys

import jax
from jax.experimental import multihost_utils

from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.parallel.multihost import initialize
from tests import tiny


def main(tokenizer: str, latents: str) -> None:
    initialize()
    alone = jax.process_count() == 1
    assert alone or (jax.process_count(), jax.device_count()) == (2, 4)
    config = tiny.config(
        "digits_vavae",
        extract__path=latents,
        extract__checkpoint=tokenizer,
        extract__batch_size=8,
        extract__shard_size=4 if alone else 90,
    )
    extract(config, "")
    if alone:
        return
    shards = [pathlib.Path(latents, f"latents_rank01_shard{s:03d}.safetensors") for s in (0, 1)]
    before = [shard.read_bytes() for shard in shards]
    multihost_utils.sync_global_devices("first extraction read")
    if jax.process_index() == 1:
        shards[1].unlink()
    multihost_utils.sync_global_devices("shard lost")
    extract(config, "")  # process 0 has nothing left to do, but process 1 has
    assert [shard.read_bytes() for shard in shards] == before


if __name__ == "__main__":
    main(*sys.argv[1:])
