"""Error bars of digits' numbers, against what the samples themselves say."""

import json

import numpy as np
import pytest
import scipy.stats

from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.evaluation.error_bars import of_jackknife, random_blocks, without
from lightningdit_jax.evaluation.neighbors import nearest_distances
from lightningdit_jax.inference.quality.digits import digits_judge, real_digits
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metrics import make_judge
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny

COUNT, BLOCKS = 720, 40  # 16 samples for each of 45 features


@pytest.fixture(scope="module")
def drawn():
    """Training digits with noise, some of them not to be recognized."""
    digits, rng = Digits("train", 8), np.random.default_rng(0)
    pixels = digits.pixels[:COUNT] + rng.normal(0, 60, (COUNT, 8, 8))
    images = np.repeat(np.uint8(pixels.clip(0, 255))[..., None], 3, axis=-1)
    return images, digits.labels[:COUNT]


def test_every_number_of_samples_gets_an_error(drawn, tmp_path):
    images, labels = drawn
    np.savez(tmp_path / "samples.npz", images, labels)
    config = tiny.config("digits_dit")
    plain = evaluate(config, str(tmp_path))
    assert json.loads((tmp_path / "evaluation.json").read_text()).keys() == {*plain, "of"}
    config = config.changed(evaluate={"jackknife_blocks": BLOCKS})
    numbers = evaluate(config, str(tmp_path))
    written = json.loads((tmp_path / "evaluation.json").read_text())
    errors = {n: bar["standard_error"] for n, bar in written["error_bars"]["numbers"].items()}
    assert {name: numbers[name] for name in plain} == plain
    real = {"classifier_accuracy", "num_samples"} | {n for n in numbers if n.endswith("_real")}
    assert errors.keys() == numbers.keys() - real and all(e > 0 for e in errors.values())

    # Of means the errors are known; a jackknife of 40 blocks knows them to about a ninth.
    small = digits_to_8x8(images)
    recognized = digits_judge().recognized(small, labels)
    to_train = nearest_distances(small, real_digits("train")[0])
    for name, values in (("recognised_share", recognized), ("distance_to_train", to_train)):
        assert numbers[name] == pytest.approx(values.mean())
        assert errors[name] == pytest.approx(scipy.stats.sem(values), rel=0.4)
        rest = [values[without(b, COUNT)].mean() for b in random_blocks(COUNT, BLOCKS)]
        assert errors[name] == pytest.approx(of_jackknife(0, rest).standard_error)
    assert numbers["digits_fid_infinity"] < digits_judge().frechet_distance(small)

    judge, compared_with = make_judge(config, make_mesh(), ())
    in_memory = judge(iter(np.split(images, 3)), labels)
    assert in_memory.numbers == numbers
    assert compared_with["reference"] == written["of"]["reference"]


@pytest.mark.parametrize("blocks", [1, 16])
def test_one_block_and_blocks_of_one_sample_are_refused(drawn, blocks, tmp_path):
    np.savez(tmp_path / "samples.npz", *(a[:30] for a in drawn))
    config = tiny.config("digits_dit", evaluate__jackknife_blocks=blocks)
    with pytest.raises(ValueError, match=rf"jackknife_blocks is {blocks}, and 30 .*2 to 15, two"):
        evaluate(config, str(tmp_path))
    assert not (tmp_path / "evaluation.json").exists()
