"""The metrics of samples from files, on an Inception network of random weights."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import lightningdit_jax as ldj
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.models.inception import InceptionConfig
from tests import golden, tiny
from tests.models.inception_weights import draw_weights

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def pictures(count, low=0):
    return RNG.integers(low, 256, (count, 20, 20, 3), np.uint8)


def test_missing_files_are_named_before_work_begins(tmp_path):
    config = tiny.config("digits_dit", evaluate__metric="fid")
    with pytest.raises(ValueError, match=r"config\.evaluate\.inception is empty"):
        evaluate(config, str(tmp_path))


def test_features_are_computed_at_the_highest_precision():
    """Whatever the default of the device, where it may be TF32 or bfloat16."""
    config = InceptionConfig()
    graphdef, params = abstract_model("inception", config)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
    with jax.default_matmul_precision("default"):
        run = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))
        lines = run.lower(params, images).as_text().splitlines()
    products = [x for x in lines if "stablehlo.convolution" in x or "stablehlo.dot_general" in x]
    # 94 convolutions, that of the spatial features once more, and the classifier.
    assert len(products) == 94 + 1 + 1
    assert all("f32" in line and line.count("HIGHEST") == 2 for line in products)


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
    np.savez(tmp_path / "real.npz", real)
    command = [sys.executable, "scripts/reference_statistics.py", "--source=npz"]
    command += [f"--path={tmp_path / 'real.npz'}", f"--inception={tmp_path / 'inception'}"]
    command += ["--batch-size=8", f"--output={tmp_path / 'reference.npz'}"]
    subprocess.run(command, check=True, cwd=ROOT)
    with np.load(tmp_path / "reference.npz") as reference:
        for name, want in moments.items():
            np.testing.assert_allclose(reference[name], want, atol=1e-5 * np.abs(want).max())
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
    # The same as pictures, as --mode=sample leaves them where it writes no .npz.
    (tmp_path / "samples.npz").unlink()
    (tmp_path / "samples").mkdir()
    for number, image in enumerate(real):
        save_png(tmp_path / "samples" / f"{number:06d}.png", image)
    assert evaluate(config, str(tmp_path)) == numbers["same"]
