"""Extraction by processes: killed and gone on with, two at once, with workers."""

import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.latents import (
    LatentShards,
    load_stats,
    save_stats,
    write_shard,
)
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.extraction.shards import ShardWriter, missing_shards
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.vit import ViT
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer
from tests.parallel import processes

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

CHILD = "tests.inference.extract_process"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "checkpoint")


@pytest.fixture(scope="module")
def config(tokenizer):
    return tiny.config("digits_vavae", extract__checkpoint=str(tokenizer), extract__batch_size=8)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Latents of a run without interruption, four images a shard."""
    path = tmp_path_factory.mktemp("whole") / "latents"
    return extract(tiny.replaced(config, "extract", path=str(path), shard_size=4), "")


def contents(folder):
    return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir() if p.name[0] != "."}


@pytest.mark.slow
def test_killed_extraction_goes_on_to_the_same_bits(config, tokenizer, whole, tmp_path):
    folder = tmp_path / "latents"
    # As many devices as here: other batches on a device would round otherwise.
    [process] = processes.start(CHILD, tokenizer, folder, processes=1, devices=8)
    try:
        while len(list(folder.glob("*.safetensors"))) < 3:
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        processes.kill_all([process])
    written = contents(folder)
    del written["extraction.rank00.json"]  # digests, more with each shard
    assert 3 <= len(written) - 1 < 89  # shards beside the record; 355 images make 89
    torn = folder / "latents_rank00_shard001.safetensors"  # what a power cut may leave
    torn.write_bytes(torn.read_bytes()[:-100])
    extract(tiny.replaced(config, "extract", path=str(folder), shard_size=4), "")
    assert contents(folder) == contents(whole)
    assert written.items() <= contents(folder).items()


@pytest.mark.slow
def test_worker_processes_change_nothing(config, whole, tmp_path):
    config = tiny.replaced(config, "data", num_workers=2)
    folder = extract(tiny.replaced(config, "extract", path=str(tmp_path), shard_size=4), "")
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_two_processes(tokenizer, whole, tmp_path):
    started = processes.start(CHILD, tokenizer, tmp_path / "latents", processes=2, devices=2)
    statuses, outputs = processes.finish(started)
    assert statuses == [0, 0], "\n".join(outputs)
    # 355 images are 177 and 178, in shards of 90.
    names = [f"latents_rank{r:02d}_shard{s:03d}.safetensors" for r in (0, 1) for s in (0, 1)]
    assert sorted(p.name for p in (tmp_path / "latents").glob("latents_rank*")) == names
    both, one = LatentShards(tmp_path / "latents"), LatentShards(whole)
    np.testing.assert_array_equal(both.labels, Digits("test", 16).labels)
    indices = np.arange(355)
    for flipped in (False, True):
        flip = np.full(355, flipped)
        np.testing.assert_allclose(both.read(indices, flip), one.read(indices, flip), atol=1e-4)
    np.testing.assert_allclose(load_stats(both.folder).std, load_stats(whole).std, rtol=1e-4)


def test_another_tokenizer_or_other_images_are_refused(config, tokenizer, tmp_path):
    for label, name in (("a", "0.png"), ("b", "1.png")):
        (tmp_path / "images" / label).mkdir(parents=True)
        Digits("test", 16).image(0).save(tmp_path / "images" / label / name)
    config = tiny.replaced(config, "data", source="folder", path=str(tmp_path / "images"))
    config = tiny.replaced(config, "extract", path=str(tmp_path / "latents"))
    folder = extract(config, "")
    want = contents(folder)
    (tmp_path / "images").rename(tmp_path / "moved")  # the same images elsewhere are the same
    moved = tiny.replaced(config, "data", path=str(tmp_path / "moved"))
    assert contents(extract(moved, "")) == want
    other = save_tokenizer(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="made otherwise: tokenizer"):
        extract(tiny.replaced(moved, "extract", checkpoint=str(other)), "")
    (tmp_path / "moved" / "b" / "1.png").rename(tmp_path / "moved" / "b" / "2.png")
    with pytest.raises(ValueError, match="made otherwise: images"):
        extract(moved, "")


def test_a_run_that_stopped_at_a_corrupt_image_goes_on_without_it(config, tmp_path, capsys):
    images = tmp_path / "images" / "one"
    images.mkdir(parents=True)
    for i in range(20):
        Digits("test", 16).image(i).save(images / f"{i:02d}.png")
    (images / "10.png").write_bytes((images / "09.png").read_bytes()[:60])
    config = tiny.replaced(config, "data", source="folder", path=str(images.parent))
    config = tiny.replaced(config, "extract", path=str(tmp_path / "latents"), shard_size=8)
    with pytest.raises(ValueError, match=r"10\.png cannot be decoded.*corrupt=skip"):
        extract(config, "")
    skipping = tiny.replaced(config, "data", corrupt="skip")
    for _ in range(2):  # the count is of the folder, not of the run
        folder = extract(skipping, "")
        assert "19 latents and their statistics" in capsys.readouterr().out
    assert len(LatentShards(folder)) == 19
    shard = LatentShards(folder)
    assert np.diff(shard._starts).tolist() == [8, 7, 4]


def test_features_lie_beside_the_latents(config, tmp_path):
    """Row for row, of the same crops; missing shards are made again, another model is refused."""
    digits = Digits("test", 16)
    for i in range(5):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        digits.image(i).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    config = tiny.replaced(config, "data", source="folder", path=str(tmp_path / "images"))
    options = {"path": str(tmp_path / "latents"), "features": vit, "features_dtype": "float32"}
    config = tiny.replaced(config, "extract", shard_size=3, **options)
    folder = pathlib.Path(extract(config, "")) / "features"
    network, shards = ViT(tiny.VIT, rngs=nnx.Rngs(0)), LatentShards(folder)
    pixels = np.stack([np.asarray(digits.image(i)) for i in (0, 2, 4, 1, 3)])  # by class
    for flip, images in ((False, pixels), (True, pixels[:, :, ::-1])):
        want = jax.jit(lambda m, x: m(x))(network, images / np.float32(127.5) - 1)
        found = shards.read(np.arange(5), np.full(5, flip))
        np.testing.assert_allclose(found, want, atol=1e-4)
    np.testing.assert_array_equal(shards.labels, LatentShards(folder.parent).labels)
    lines = []
    assert verify(tiny.config("digits_dit", data__path=str(folder.parent)), "", lines.append) == 0
    assert sum("/features/" in line and "whole" in line for line in lines) == 2
    written = contents(folder)
    next(folder.glob("*shard001*")).unlink()
    extract(config, "")
    assert contents(folder) == written
    other = tiny.write_network(tmp_path / "dinov2", ViT, tiny.VIT, "dinov2")
    with pytest.raises(ValueError, match="holds features made otherwise: foundation kind vit, now"):
        extract(tiny.replaced(config, "extract", features=other), "")
    with pytest.raises(ValueError, match=r"extract\.features: .* holds a vavae; expected a found"):
        extract(tiny.replaced(config, "extract", features=config.extract.checkpoint), "")


def test_folders_that_cannot_be_mapped_are_refused_at_once(config):
    with pytest.raises(ValueError, match=r"gs://bucket/latents.*mounted"):
        extract(tiny.replaced(config, "extract", path="gs://bucket/latents"), "")


@pytest.mark.parametrize("damage", [np.nan, 0.01])
def test_comparing_finds_one_wrong_value(tmp_path, damage):
    rng = np.random.default_rng(0)
    latents, labels = rng.normal(size=(5, 2, 2, 3)).astype(np.float32), np.arange(5)
    for name in ("a", "b"):
        write_shard(tmp_path / name, 0, 0, latents, latents, labels)
        save_stats(tmp_path / name, LatentScaling(np.zeros(3), np.ones(3)))
    wrong = latents.copy()
    wrong[4, 1, 1, 2] += damage
    write_shard(tmp_path / "b", 0, 0, latents, wrong, labels)
    command = [sys.executable, processes.ROOT / "scripts" / "compare_latents.py", tmp_path / "a"]
    found = subprocess.run([*command, tmp_path / "b"], capture_output=True, text=True)
    assert found.returncode == 1 and "different within 0.0001" in found.stdout


@pytest.mark.parametrize("size", [1, 3, 4, 10, 11])
def test_shards_are_fixed_ranges_of_images(tmp_path, size):
    """Each image once, whatever is there already and wherever batches end."""
    start, stop = 100, 110
    latents = np.arange(10.0).reshape(10, 1, 1, 1)
    for expected in (-(-10 // size), 1):  # all, then the one that was lost
        shards = missing_shards(tmp_path, 3, start, stop, size)
        assert len(shards) == expected
        writer = ShardWriter(tmp_path, 3, shards, batch_size=4, dtype="float32")
        for a, b in shards.values():
            for first in range(a, b, 4):
                rows = slice(first - start, min(first + 4, b) - start)
                writer.add(latents[rows], -latents[rows], np.arange(10)[rows])
        writer.add(latents, latents, np.arange(10))  # padding, while others have images left
        writer.close()
        found = LatentShards(tmp_path)
        np.testing.assert_array_equal(found.labels, np.arange(10))
        np.testing.assert_array_equal(found.read(np.arange(10), np.ones(10, bool)), -latents)
        next(tmp_path.glob("*.safetensors")).unlink()
