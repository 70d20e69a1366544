"""Reference files of one's own images: moments, kept images, and what made them."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import ImageFolder, center_crop_adm
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.reference_moments import moments_from_npz
from lightningdit_jax.inference.quality.features import ImagesInMemory
from lightningdit_jax.inference.quality.inception import InceptionNetwork
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.reference import (
    CroppedImages,
    StoredImages,
    write_reference,
)
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.inference import evaluate_process, tiny_inception
from tests.parallel import processes

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    tiny_inception.use(monkeypatch)


@pytest.fixture
def network():
    return InceptionNetwork("0", 8, make_mesh())


def pictures(count, low=0):
    return RNG.integers(low, 256, (count, 8, 8, 3), np.uint8)


def assert_moments_of(reference, images):
    wanted = tiny_inception.features(0, images)
    for name in ("pool", "spatial"):
        mean, covariance = getattr(reference, name)
        want = wanted[name].astype(np.float64)
        np.testing.assert_allclose(mean, want.mean(0), atol=1e-6)
        np.testing.assert_allclose(covariance, np.cov(want.T), atol=1e-6)


@pytest.mark.parametrize("count", [1, 8, 21])
def test_features_are_in_order_whatever_the_batch(network, count):
    images = pictures(count)
    found = network.features(ImagesInMemory(images), count)
    for name, want in tiny_inception.features(0, images).items():
        np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-6)


def test_statistics_of_a_folder_with_a_damaged_image(network, tmp_path):
    crops = []
    for i in range(13):
        image = Image.fromarray(RNG.integers(0, 256, (11, 19, 3), np.uint8))
        path = tmp_path / "images" / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        if i == 5:
            path.write_bytes(path.read_bytes()[:60])
        else:
            crops.append(center_crop_adm(image, 8))
    crops = np.stack(crops)
    source = ImageBatches(ImageFolder(tmp_path / "images"), 8, "center_crop", 2, "skip")
    output = tmp_path / "ref.npz"
    count = write_reference(CroppedImages(source, 8), str(output), network, num_kept=7)
    assert count == 12
    reference = moments_from_npz(str(output))
    assert_moments_of(reference, crops)
    assert reference.extractor == network.identity
    kept = next(NpzImages(output).batches(100, 0, 7))
    found = [np.flatnonzero((crops == image).all((1, 2, 3))) for image in kept]
    assert len(np.unique(np.concatenate(found))) == len(kept) == 7


def test_statistics_of_a_file_keep_other_images_for_another_seed(network, tmp_path):
    images = pictures(600)
    np.savez(tmp_path / "all.npz", images)
    stored = StoredImages(NpzImages(tmp_path / "all.npz"))
    kept = []
    for seed in (0, 1):
        output = tmp_path / f"{seed}.npz"
        assert write_reference(stored, str(output), network, num_kept=300, seed=seed) == 600
        assert_moments_of(moments_from_npz(str(output)), images)
        kept.append(np.load(output)["arr_0"])
        rows = {image.tobytes() for image in kept[-1]}
        assert len(rows) == 300 and rows <= {image.tobytes() for image in images}
    assert not np.array_equal(*kept)


@pytest.fixture
def config(tmp_path, network):
    np.savez(tmp_path / "real.npz", pictures(40))
    stored = StoredImages(NpzImages(tmp_path / "real.npz"))
    write_reference(stored, str(tmp_path / "ref.npz"), network)
    return tiny.config(
        "digits_dit",
        evaluate__metric="fid",
        evaluate__inception="0",
        evaluate__reference=str(tmp_path / "ref.npz"),
        evaluate__batch_size=8,
    )


def test_any_file_of_samples_is_evaluated(config, tmp_path, capsys):
    """One without labels, elsewhere; the real images score perfectly against themselves."""
    numbers = {}
    for name, images in (("real", None), ("bright", pictures(30, low=200))):
        path = tmp_path / f"{name}.npz"
        if images is not None:
            np.savez_compressed(path, images)
        chosen = tiny.replaced(config, "evaluate", samples=str(path))
        numbers[name] = evaluate(chosen, str(tmp_path / "work"))
    assert numbers["real"]["fid"] == pytest.approx(0, abs=1e-6)
    assert numbers["real"]["sfid"] == pytest.approx(0, abs=1e-6)
    assert numbers["real"]["precision"] == numbers["real"]["recall"] == 1
    assert numbers["bright"]["fid"] > 0.1 and numbers["bright"]["precision"] == 0
    assert numbers["bright"]["num_samples"] == 30
    assert "does not name its network" not in capsys.readouterr().out


def test_a_reference_of_another_network_is_refused(config, tmp_path):
    np.savez(tmp_path / "samples.npz", pictures(9))
    other = tiny.replaced(config, "evaluate", inception="1")
    with pytest.raises(ValueError, match=r"another network: weights \w{16} in the file and \w{16}"):
        evaluate(other, str(tmp_path))


def test_a_reference_that_names_no_network_is_accepted_with_a_word(config, tmp_path, capsys):
    with np.load(config.evaluate.reference) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "extractor"}
    np.savez(tmp_path / "adm.npz", **arrays)
    np.savez(tmp_path / "samples.npz", pictures(9))
    evaluate(
        tiny.replaced(config, "evaluate", reference=str(tmp_path / "adm.npz"), inception="1"),
        str(tmp_path),
    )
    assert "does not name its network; taken for the 2015 graph" in capsys.readouterr().out


def test_missing_samples_are_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no samples at .*/samples\.npz; make them with"):
        evaluate(config, str(tmp_path))


def test_the_script_says_what_is_missing(tmp_path):
    command = [sys.executable, "scripts/reference_statistics.py", "--source=folder"]
    command += [f"--path={tmp_path / 'x'}", "--inception=y", f"--output={tmp_path / 'z.npz'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "x: no such folder of images" in done.stderr


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both find the same numbers, and those of one process, though neither has all features."""
    for name, count in (("real", 37), ("samples", 29)):
        np.savez(tmp_path / f"{name}.npz", pictures(count))
    alone = evaluate_process.run(tmp_path)
    want = dict(np.load(tmp_path / "reference.npz"))
    started = processes.start("tests.inference.evaluate_process", tmp_path, processes=2, devices=2)
    statuses, outputs = processes.finish(started)
    assert statuses == [0, 0], "\n".join(outputs)
    numbers = [json.loads((tmp_path / f"numbers{i}.json").read_text()) for i in range(2)]
    assert numbers[0] == numbers[1] == pytest.approx(alone, rel=1e-5)
    found = dict(np.load(tmp_path / "reference.npz"))
    np.testing.assert_array_equal(found["arr_0"], want["arr_0"])
    assert str(found["extractor"]) == str(want["extractor"])
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        np.testing.assert_allclose(found[name], want[name], atol=1e-6)
