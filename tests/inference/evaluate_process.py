"""A reference and an evaluation as one process of a job; run by test_reference_statistics.py.

FOLDER holds real.npz and samples.npz.
"""

import json
import pathlib
import sys

import jax
import pytest
from jax.experimental import multihost_utils

from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.reference import StoredImages, write_reference
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.multihost import initialize
from tests import tiny
from tests.inference import tiny_inception


def main(folder: str) -> None:
    initialize()
    assert jax.process_count() == 2 and jax.device_count() == 4
    with pytest.MonkeyPatch.context() as patch:
        tiny_inception.use(patch)
        numbers = run(pathlib.Path(folder))
    pathlib.Path(folder, f"numbers{jax.process_index()}.json").write_text(json.dumps(numbers))


def run(folder: pathlib.Path) -> dict[str, float]:
    """Writes FOLDER/reference.npz and evaluates against it."""
    stored = StoredImages(NpzImages(folder / "real.npz"))
    network = InceptionNetwork("0", 8, make_mesh())
    write_reference(stored, str(folder / "reference.npz"), network, num_kept=20)
    multihost_utils.sync_global_devices("reference written")
    config = tiny.config(
        "digits_dit",
        evaluate__metric="fid",
        evaluate__inception="0",
        evaluate__reference=str(folder / "reference.npz"),
        evaluate__batch_size=8,
    )
    return evaluate(config, str(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
