"""Which samples are evaluated, and what is known of them."""

import json

import numpy as np
import pytest

from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.inference.quality.digits import evaluate_digits
from lightningdit_jax.inference.quality.evaluated_file import (
    open_samples,
    samples_identity,
    samples_path,
)
from tests import tiny

IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


@pytest.fixture
def workdir(tmp_path):
    """Pictures, and the JSON that says so."""
    (tmp_path / "samples").mkdir()
    for number, image in enumerate(IMAGES):
        save_png(tmp_path / "samples" / f"{number:06d}.png", image)
    runtime = {"outputs": ["samples"]}
    (tmp_path / "samples.json").write_text(json.dumps({"num_samples": 3, "runtime": runtime}))
    return tmp_path


def found(workdir, **changes):
    config = tiny.config("digits_dit", **changes)
    return open_samples(samples_path(config, str(workdir)))


def test_an_npz_comes_before_pictures_and_what_is_named_before_both(workdir):
    assert samples_identity(found(workdir))["made_with"]["num_samples"] == 3
    np.savez(workdir / "samples.npz", IMAGES[:2])
    assert len(found(workdir)) == 2
    assert len(found(workdir, evaluate__samples=str(workdir / "samples"))) == 3
    with pytest.raises(FileNotFoundError, match=r"no samples at .*x\.npz"):
        found(workdir, evaluate__samples=str(workdir / "x.npz"))


def test_samples_of_an_earlier_request_are_told(workdir):
    np.savez(workdir / "samples.npz", IMAGES)
    with pytest.raises(ValueError, match=r"other samples than samples\.npz: it describes samples"):
        samples_identity(found(workdir))


def test_pictures_are_counted(workdir):
    save_png(workdir / "samples" / "000003.png", IMAGES[0])
    with pytest.raises(ValueError, match=r"3 are described, 4 are there"):
        samples_identity(found(workdir))


def test_pictures_have_no_labels_for_digits(workdir):
    with pytest.raises(ValueError, match=r"samples is a folder of pictures, which have no labels"):
        evaluate_digits(tiny.config("digits_dit"), str(workdir))
