"""Measures of a tokenizer as one process of a job; run by test_tokenizer_measures.py.

TOKENIZER LATENTS FOLDER.
"""

import json
import pathlib
import sys

import jax
import pytest

from lightningdit_jax.inference.quality import tokenizer_latents
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.tokenizer_measures import MEASURES
from lightningdit_jax.parallel.multihost import initialize
from tests import tiny
from tests.assembly import toy_models


def main(tokenizer: str, latents: str, folder: str) -> None:
    initialize()
    assert jax.process_count() == 2
    numbers = run(tokenizer, latents, folder)
    pathlib.Path(folder, f"numbers{jax.process_index()}.json").write_text(json.dumps(numbers))


def run(tokenizer: str, latents: str, folder: str) -> dict[str, float]:
    """The numbers of all measures of 43 digits, here and in two processes alike."""
    with pytest.MonkeyPatch.context() as patch:
        toy_models.register(patch)
        patch.setattr(tokenizer_latents, "tsne_layout", lambda vectors, seed: vectors[:, :2])
        config = tiny.config(
            "digits_vavae",
            extract__checkpoint=tokenizer,
            evaluate__measures=tuple(MEASURES),
            evaluate__ifid_latents=latents,
            evaluate__num_images=43,
            evaluate__batch_size=8,
        )
        return evaluate(config, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
