"""Error bars of FID and what goes with it, in the features of a network that is none."""

import json

import numpy as np
import pytest

from lightningdit_jax.evaluation.error_bars import jackknife_blocks, of_jackknife, without
from lightningdit_jax.evaluation.frechet import Moments, frechet_distance
from lightningdit_jax.evaluation.inception_score import inception_score
from lightningdit_jax.evaluation.precision_recall import precision_recall
from lightningdit_jax.evaluation.reference_moments import ReferenceMoments
from lightningdit_jax.inference.quality import fid
from lightningdit_jax.inference.quality.features import FeatureNetwork
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metrics import make_judge
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny

COUNT, BLOCKS = 80, 10


class Pixels(FeatureNetwork):
    """Pixels for features, in the place of InceptionNetwork."""

    def __init__(self, *_):
        self.identity, self.mesh, self.local_size = {"network": "pixels"}, make_mesh(), 8

    @staticmethod
    def check(path):
        pass

    def start(self, images):
        return images

    def finish(self, output, count, first):
        x = np.asarray(output)[:count].reshape(count, -1) / 255
        return {"pool": x[:, :4], "spatial": x[:, 2:6], "logits": 3 * x}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(fid, "InceptionNetwork", Pixels)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 2, 2, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", images, np.arange(COUNT) % 4)
    real = rng.integers(0, 200, (60, 2, 2, 3), np.uint8)
    x = real.reshape(60, -1) / 255
    gaussians = [Moments.of(x[:, columns]).gaussian for columns in (slice(4), slice(2, 6))]
    moments = ReferenceMoments(*gaussians, Pixels().identity).to_arrays()
    np.savez(tmp_path / "reference.npz", arr_0=real, **moments)
    return tiny.config(
        "digits_dit",
        evaluate__metric="fid",
        evaluate__inception="pixels",
        evaluate__reference=str(tmp_path / "reference.npz"),
        evaluate__jackknife_blocks=BLOCKS,
    )


def test_every_number_is_computed_again_without_each_block(config, tmp_path):
    numbers = evaluate(config, str(tmp_path))
    written = json.loads((tmp_path / "evaluation.json").read_text())
    files = [np.load(tmp_path / f"{name}.npz") for name in ("samples", "reference")]
    images, real = files[0]["arr_0"], files[1]["arr_0"].reshape(60, -1) / 255
    x = images.reshape(COUNT, -1) / 255

    def again(kept):
        found = [Moments.of(x[kept][:, columns]).gaussian for columns in (slice(4), slice(2, 6))]
        return {
            "fid": frechet_distance(files[1]["mu"], files[1]["sigma"], *found[0]),
            "sfid": frechet_distance(files[1]["mu_s"], files[1]["sigma_s"], *found[1]),
            "inception_score": inception_score(3 * x[kept]),
            "precision": precision_recall(real[:, :4], x[kept][:, :4]).precision,
        }

    blocks = jackknife_blocks(COUNT, BLOCKS, files[0]["arr_1"])  # each class has 20 samples
    rest = [again(without(block, COUNT)) for block in blocks]
    bars = written["error_bars"]["numbers"]
    for name, value in again(slice(None)).items():
        want = of_jackknife(value, [numbers_[name] for numbers_ in rest])
        assert numbers[name] == pytest.approx(value)
        assert bars[name]["standard_error"] == pytest.approx(want.standard_error)
        assert bars[name]["interval"] == pytest.approx(want.interval)
    # Recall with the balls as they are: near what it is with those of the rest.
    assert bars.keys() == numbers.keys() - {"num_samples"}
    assert 0 < bars["recall"]["standard_error"] < 0.1

    judge, compared_with = make_judge(config, make_mesh(), ())
    assert judge(iter(np.split(images, 4)), files[0]["arr_1"]).numbers == numbers
    assert compared_with == {name: written["of"][name] for name in ("reference", "inception")}
