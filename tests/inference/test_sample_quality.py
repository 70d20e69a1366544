"""The metrics of samples from files, on an Inception network of random weights."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import lightningdit_jax as ldj
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.inference.evaluators import evaluate
from tests import golden, tiny
from tests.models.inception_weights import draw_weights

RNG = np.random.default_rng(0)


def pictures(count, low=0):
    return RNG.integers(low, 256, (count, 20, 20, 3), np.uint8)


def test_images_of_an_npz_file_are_read_in_pieces(tmp_path):
    images = pictures(11)
    np.savez(tmp_path / "x.npz", images, np.arange(11))
    source = NpzImages(tmp_path / "x.npz")
    assert len(source) == 11
    batches = list(source.batches(3, 2, 9))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), images[2:9])


def test_other_files_are_named(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", pictures(2))
    np.savez(tmp_path / "floats.npz", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "names.npz", images=pictures(2))
    (tmp_path / "text.npz").write_bytes(b"text")
    for name, message in [
        ("small", "compressed; write it with numpy.savez"),
        ("floats", r"float64 of shape \(2, 4, 4, 3\); expected uint8"),
        ("names", r"lacks 'arr_0'; it has \['images.npy'\]"),
        ("text", "not an .npz file"),
    ]:
        with pytest.raises(ValueError, match=message):
            NpzImages(tmp_path / f"{name}.npz")


def test_missing_files_are_named_before_work_begins(tmp_path):
    config = tiny.config("digits_dit", evaluate__metric="fid")
    with pytest.raises(ValueError, match=r"config\.evaluate\.inception is empty"):
        evaluate(config, str(tmp_path))


@pytest.mark.slow
def test_metrics_of_samples(tmp_path):
    """Samples that are the reference images score as such, others worse."""
    shapes = json.loads((golden.GOLDEN.parent / "inception" / "shapes.json").read_text())
    save_file(draw_weights({k: tuple(v) for k, v in shapes.items()}), tmp_path / "i.safetensors")
    convert_files([str(tmp_path / "i.safetensors")], str(tmp_path / "inception"), say=str)
    inception = ldj.load(str(tmp_path / "inception"))
    real = pictures(18)
    features = jax.jit(lambda x: inception(x))(real)
    moments = {}
    for suffix, values in (("", features.pool), ("_s", features.spatial)):
        values = np.asarray(values, np.float64)
        moments |= {f"mu{suffix}": values.mean(0), f"sigma{suffix}": np.cov(values.T)}
    np.savez(tmp_path / "reference.npz", arr_0=real, **moments)
    config = tiny.config(
        "digits_dit",
        evaluate__metric="fid",
        evaluate__inception=str(tmp_path / "inception"),
        evaluate__reference=str(tmp_path / "reference.npz"),
        evaluate__batch_size=8,
        evaluate__num_images=18,
    )
    numbers = {}
    for name, images in (("same", real), ("other", pictures(20, low=200))):
        np.savez(tmp_path / "samples.npz", images)
        numbers[name] = evaluate(config, str(tmp_path))
    scale = np.trace(moments["sigma"])
    assert abs(numbers["same"]["fid"]) < 1e-3 * scale < numbers["other"]["fid"]
    assert abs(numbers["same"]["sfid"]) < 1e-3 * np.trace(moments["sigma_s"])
    assert numbers["same"]["precision"] == numbers["same"]["recall"] == 1
    assert numbers["other"]["precision"] < 1
    assert numbers["same"]["num_samples"] == numbers["other"]["num_samples"] == 18
