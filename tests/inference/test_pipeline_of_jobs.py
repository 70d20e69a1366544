"""Tokenizer, latents, generator, samples, evaluation on a few digits, in one process."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.latents import LatentShards, load_stats, save_stats
from lightningdit_jax.evaluation.error_bars import of_jackknife, random_blocks
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.sweep import sweep
from lightningdit_jax.inference.reconstruct import posterior_sample
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.store import SampleStore
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.pixels import to_model_range, to_uint8
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.run import train
from tests import golden, tiny
from tests.models.inception_weights import draw_weights

# The fixtures of the module are made once, by the worker that has compiled the same programs.
pytestmark = pytest.mark.xdist_group("jobs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def tokenizer(folder):
    path = str(folder / "latents")
    config = tiny.config("digits_vavae", extract__path=path, **tiny.READS_MOST)
    train(config, str(folder / "tokenizer"))
    return config


@pytest.fixture(scope="module")
def latents(folder, tokenizer):
    return extract(tokenizer, str(folder / "tokenizer"))


@pytest.fixture(scope="module")
def generator(folder, latents):
    config = tiny.config(
        "digits_dit",
        data__path=str(latents),
        model__input_size=8,
        sample__tokenizer=str(folder / "tokenizer"),
        sample__num_samples=30,
        sample__num_steps=3,
        **tiny.READS_MOST,
    )
    train(config, str(folder / "generator"))
    return config


def test_one_row_per_image_in_order(latents):
    digits, shards = Digits("test", 16), LatentShards(latents)
    assert len(shards) == len(digits) == 355  # 355 is no multiple of the batch of 40
    np.testing.assert_array_equal(shards.labels, digits.labels)
    assert len(list(latents.glob("latents_rank00_shard*.safetensors"))) == 4
    assert load_stats(latents).channels == 8


def test_latents_are_posterior_samples_by_index(folder, tokenizer, latents):
    vae = ldj.load(str(folder / "tokenizer"))
    digits, shards = Digits("test", 16), LatentShards(latents)
    index = np.array([100, 7, 354])
    images = np.stack([np.asarray(digits.image(int(i))) for i in index])
    for flipped, x in enumerate((images, images[:, :, ::-1])):
        posterior = vae.encode(to_model_range(jax.numpy.asarray(x)))
        want = posterior_sample(posterior, index, tokenizer.seed, flipped)
        got = shards.read(index, np.full(3, bool(flipped)))
        np.testing.assert_allclose(got, want, atol=1e-4)


def contents(folder):
    """Every file; tensors rather than bytes, since headers list their entries in any order."""
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    others = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".safetensors"}
    return shards | others


def assert_same_contents(got, want):
    assert got.keys() == want.keys()
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_killed_extraction_goes_on_to_the_same_bits(folder, tokenizer, latents, tmp_path):
    """What a kill leaves: whole shards, a half-written temporary, no statistics."""
    want = contents(latents)
    interrupted = tmp_path / "latents"
    shutil.copytree(latents, interrupted)
    for name in ("latents_rank00_shard001", "latents_rank00_shard003", "latents_stats"):
        (interrupted / f"{name}.safetensors").unlink()
    (interrupted / ".latents_rank00_shard001.safetensors.tmp").write_bytes(b"half")
    again = tiny.replaced(tokenizer, "extract", path=str(interrupted))
    for _ in range(2):  # the second time nothing is missing
        extract(again, str(folder / "tokenizer"))
        assert_same_contents(contents(interrupted), want)


def test_extraction_does_not_depend_on_the_batch_size(folder, tokenizer, latents, tmp_path):
    other = tiny.replaced(tokenizer, "extract", path=str(tmp_path), batch_size=24, stats_images=99)
    extract(other, str(folder / "tokenizer"))
    a, b = LatentShards(latents), LatentShards(tmp_path)
    for flipped in (False, True):
        indices, flip = np.arange(len(a)), np.full(len(a), flipped)
        np.testing.assert_allclose(a.read(indices, flip), b.read(indices, flip), atol=1e-5)
    spread = np.arange(99) * 355 // 99
    sample = a.read(spread, np.zeros(99, bool)).reshape(-1, 8)
    np.testing.assert_allclose(load_stats(tmp_path).std, sample.std(0, ddof=1), rtol=1e-5)


def test_extraction_refuses_latents_made_otherwise(folder, tokenizer, latents, tmp_path):
    with pytest.raises(ValueError, match="made otherwise: seed 0, now 7; delete them"):
        extract(dataclasses.replace(tokenizer, seed=7), str(folder / "tokenizer"))
    tiny.write_latents(tmp_path)
    with pytest.raises(ValueError, match=r"without an extraction.json"):
        extract(tiny.replaced(tokenizer, "extract", path=str(tmp_path)), str(folder / "tokenizer"))


def test_unreadable_images_are_left_out_of_the_latents(folder, tokenizer, tmp_path, capsys):
    digits, images = Digits("test", 16), tmp_path / "images" / "one"
    images.mkdir(parents=True)
    for i in range(12):
        digits.image(i).save(images / f"{i:02d}.png")
    (images / "05.png").write_bytes(b"no image")
    config = tiny.replaced(tokenizer, "data", source="folder", path=str(images.parent))
    config = tiny.replaced(config, "extract", path=str(tmp_path / "latents"))
    with pytest.raises(ValueError, match=r"05\.png cannot be decoded"):
        extract(config, str(folder / "tokenizer"))
    skipping = tiny.replaced(config, "data", corrupt="skip")
    skipping = tiny.replaced(skipping, "extract", path=str(tmp_path / "skipping"))
    extract(skipping, str(folder / "tokenizer"))
    assert len(LatentShards(tmp_path / "skipping")) == 11
    assert "1 unreadable image left out" in capsys.readouterr().out


def test_class_names_go_with_latents_and_checkpoints(folder, tokenizer, latents, generator):
    names = list("0123456789")
    assert json.loads((latents / "extraction.json").read_text())["class_names"] == names
    metas = {n: read_meta(find_checkpoint(str(folder / n))) for n in ("tokenizer", "generator")}
    assert [meta["class_names"] for meta in metas.values()] == [names, names]
    shards = LatentShards(latents)
    assert metas["generator"]["examples"] == {"count": 355, "fingerprint": shards.fingerprint()}
    loaded = load_functional(str(folder / "generator"), make_mesh(devices=jax.devices()[:1]))
    assert "10 classes: 0, 1, 2" in loaded.description()


def test_latents_extracted_without_names_go_on(folder, tokenizer, latents, tmp_path):
    nameless = tmp_path / "latents"
    shutil.copytree(latents, nameless)
    record = json.loads((nameless / "extraction.json").read_text())
    del record["class_names"]
    (nameless / "extraction.json").write_text(json.dumps(record))
    config = tiny.replaced(tokenizer, "extract", path=str(nameless))
    shards = LatentShards(extract(config, str(folder / "tokenizer")))
    assert len(shards) == 355 and shards.class_names == ()
    assert shards.fingerprint() == LatentShards(latents).fingerprint()


@pytest.mark.slow
def test_labels_may_be_names(folder, latents, generator, tmp_path, capsys):
    """Names come from the record to the checkpoint, from there to --mode=sample."""
    named = tmp_path / "latents"
    shutil.copytree(latents, named)
    record = json.loads((named / "extraction.json").read_text())
    record["class_names"] = [f"digit {i}" for i in range(10)]
    (named / "extraction.json").write_text(json.dumps(record))
    config = tiny.replaced(generator, "data", path=str(named))
    config = tiny.replaced(config, "train", num_steps=1)
    train(config, str(tmp_path / "w"))
    zeros, ones, *_ = np.bincount(Digits("test").labels)
    assert f"10 classes: digit 0 {zeros}, digit 1 {ones}, " in capsys.readouterr().out
    config = tiny.replaced(config, "sample", labels="digit 7,digit 2", num_samples=4)
    sample(config, str(tmp_path / "w"))
    with np.load(tmp_path / "w" / "samples.npz") as samples:
        np.testing.assert_array_equal(samples["arr_1"], [7, 2, 7, 2])


def test_folders_of_latents_are_compared(latents, tmp_path):
    command = [sys.executable, "scripts/compare_latents.py", str(latents)]
    same = subprocess.run([*command, str(latents)], capture_output=True, text=True)
    assert same.returncode == 0 and "same within" in same.stdout
    tiny.write_latents(tmp_path)
    other = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert other.returncode == 1 and "different: 355 latents" in other.stdout
    absent = subprocess.run([*command, str(tmp_path / "x")], capture_output=True, text=True)
    assert absent.returncode == 2 and "no such folder" in absent.stderr


def test_tokenizer_evaluation(folder, tokenizer):
    numbers = evaluate(tokenizer, str(folder / "tokenizer"))
    assert numbers["num_images"] == 50 and 0 < numbers["reconstruction_psnr"] < 60
    assert "reconstruction_lpips" not in numbers
    picture = np.asarray(Image.open(folder / "tokenizer" / "reconstructions.png"))
    for column, index in enumerate(range(0, 50, 5)):
        original = np.asarray(Digits("test", 16).image(index))
        left = 2 + 66 * column
        np.testing.assert_array_equal(picture[2:66:4, left : left + 64 : 4], original)


def test_an_evaluation_says_what_it_is_of(folder, tokenizer, generator, capsys):
    workdir = str(folder / "tokenizer")
    numbers = evaluate(tokenizer, workdir)
    found = json.loads((folder / "tokenizer" / "evaluation.json").read_text())
    of = found.pop("of")
    assert found == numbers
    loaded = load_functional(workdir, make_mesh(), dtype=np.float32)
    fingerprint = weights_fingerprint(loaded.params)
    step = int(find_checkpoint(workdir).name)
    assert of["tokenizer"] == {"path": workdir, "step": step, "fingerprint": fingerprint}
    assert of["images"] == {"path": "", "source": "digits", "count": 355, "split": "test"}
    assert f"step {step}, fingerprint {fingerprint}" in capsys.readouterr().out

    sample(generator, str(folder / "generator"))
    evaluate(generator, str(folder / "generator"))
    of = json.loads((folder / "generator" / "evaluation.json").read_text())["of"]
    made_with = of["samples"].pop("made_with")
    path = folder / "generator" / "samples.npz"
    assert of["samples"] == {"path": str(path), "count": 30}
    assert made_with == json.loads(path.with_suffix(".json").read_text())
    assert made_with["weights"]["vae"]["fingerprint"] == fingerprint
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match=r"samples\.json is damaged.*what samples\.npz was made"):
        evaluate(generator, str(folder / "generator"))
    path.with_suffix(".json").write_text(json.dumps(made_with))


def originals_and_rebuilt(vae, count):
    digits = Digits("test", 16)
    images = jax.numpy.asarray(np.stack([np.asarray(digits.image(i)) for i in range(count)]))
    posterior = vae.encode(to_model_range(images))
    z = posterior_sample(posterior, np.arange(count), seed=0, flipped=0)
    return images, to_uint8(vae.decode(z))


@pytest.mark.slow
def test_perceptual_distance_of_reconstructions(folder, tokenizer, tmp_path):
    """The mean over all images, whatever the batches, of what LPIPS says of each."""
    source = str(golden.GOLDEN / "lpips_tiny.weights.safetensors")
    convert_files([source], str(tmp_path / "lpips"), say=str)
    config = tiny.replaced(tokenizer, "evaluate", lpips=str(tmp_path / "lpips"), num_images=11)
    config = tiny.replaced(config, "evaluate", jackknife_blocks=5)
    numbers = evaluate(config, str(folder / "tokenizer"))
    vae, lpips = ldj.load(str(folder / "tokenizer")), ldj.load(str(tmp_path / "lpips"))
    digits = Digits("test", 16)
    images = jax.numpy.asarray(np.stack([np.asarray(digits.image(i)) for i in range(11)]))
    posterior = vae.encode(to_model_range(images))
    rebuilt = to_uint8(vae.decode(posterior_sample(posterior, np.arange(11), config.seed, 0)))
    want = np.asarray(lpips(to_model_range(images), to_model_range(rebuilt)), np.float64)
    assert numbers["reconstruction_lpips"] == pytest.approx(want.mean(), rel=1e-3)
    rest = [np.delete(want, block).mean() for block in random_blocks(11, 5)]
    bars = json.loads((folder / "tokenizer" / "evaluation.json").read_text())["error_bars"]
    bar = bars["numbers"]["reconstruction_lpips"]
    assert bar["degrees"] == 4 and bar["standard_error"] == pytest.approx(
        of_jackknife(0, rest).standard_error, rel=1e-3
    )
    assert {*bars["numbers"]} == {*numbers} - {"num_images"}
    with pytest.raises(ValueError, match="holds a lpips; expected a inception"):
        evaluate(
            tiny.replaced(config, "evaluate", inception=str(tmp_path / "lpips")),
            str(folder / "tokenizer"),
        )


@pytest.mark.slow
def test_frechet_distance_of_reconstructions(folder, tokenizer, tmp_path):
    """On random weights: zero for the same images, and above for reconstructions."""
    shapes = json.loads((golden.GOLDEN.parent / "inception" / "shapes.json").read_text())
    save_file(draw_weights({k: tuple(v) for k, v in shapes.items()}), tmp_path / "i.safetensors")
    convert_files([str(tmp_path / "i.safetensors")], str(tmp_path / "inception"), say=str)
    config = tiny.replaced(
        tokenizer, "evaluate", inception=str(tmp_path / "inception"), num_images=24, batch_size=8
    )
    numbers = evaluate(config, str(folder / "tokenizer"))
    vae, inception = ldj.load(str(folder / "tokenizer")), ldj.load(str(tmp_path / "inception"))
    digits = Digits("test", 16)
    images = jax.numpy.asarray(np.stack([np.asarray(digits.image(i)) for i in range(24)]))
    posterior = vae.encode(to_model_range(images))
    rebuilt = to_uint8(vae.decode(posterior_sample(posterior, np.arange(24), config.seed, 0)))
    a, b = (np.asarray(inception(x).pool, np.float64) for x in (images, rebuilt))
    # Of samples in fewer dimensions than there are, by singular values instead of eigenvalues.
    centered = [(x - x.mean(0)) / np.sqrt(23) for x in (a, b)]
    trace = sum(np.square(x).sum() for x in centered)
    cross = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    want = np.square(a.mean(0) - b.mean(0)).sum() + trace - 2 * cross
    assert numbers["reconstruction_fid"] == pytest.approx(want, rel=1e-3)


def test_samples_and_their_description(folder, generator):
    sample(generator, str(folder / "generator"))
    archive = np.load(folder / "generator" / "samples.npz")
    assert archive["arr_0"].shape == (30, 16, 16, 3) and archive["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(archive["arr_1"], np.arange(30) % 10)
    described = json.loads((folder / "generator" / "samples.json").read_text())
    assert described["evaluations"] == 2 and described["weights"]["dit"]["step"] == 6
    numbers = evaluate(generator, str(folder / "generator"))
    assert 0 <= numbers["recognised_share"] <= 1 and numbers["classifier_accuracy"] > 0.97


def test_killed_sampling_goes_on_to_the_same_images(folder, generator, tmp_path, monkeypatch):
    config = tiny.replaced(
        generator, "sample", checkpoint=str(folder / "generator"), batch_size=8, output="both"
    )
    sample(config, str(tmp_path / "whole"))

    written = []

    def write_twice(store, first, images):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(first)
        original(store, first, images)

    original = SampleStore.write
    monkeypatch.setattr(SampleStore, "write", write_twice)
    with pytest.raises(KeyboardInterrupt):
        sample(config, str(tmp_path / "killed"))
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "samples.npz").exists()
    with pytest.raises(ValueError, match="num_samples 30, now 31"):
        sample(tiny.replaced(config, "sample", num_samples=31), str(tmp_path / "killed"))
    sample(config, str(tmp_path / "killed"))
    whole, again = (np.load(tmp_path / name / "samples.npz") for name in ("whole", "killed"))
    np.testing.assert_array_equal(whole["arr_0"], again["arr_0"])
    pictures = sorted((tmp_path / "killed" / "samples").iterdir())
    np.testing.assert_array_equal([np.asarray(Image.open(p)) for p in pictures], whole["arr_0"])


def test_samples_that_are_there_are_not_drawn_again(folder, generator, tmp_path, capsys):
    config = tiny.replaced(generator, "sample", checkpoint=str(folder / "generator"))
    sample(config, str(tmp_path))
    before = (tmp_path / "samples.npz").stat().st_mtime_ns
    sample(config, str(tmp_path))
    assert "there already" in capsys.readouterr().out
    assert (tmp_path / "samples.npz").stat().st_mtime_ns == before
    other = tiny.replaced(
        config,
        "sample",
        solver="heun2",
        weak_checkpoint=config.sample.checkpoint,
        use_ema=False,
        ema_decay=0.5,  # which average is not asked, where none is taken
    )
    sample(other, str(tmp_path))
    described = json.loads((tmp_path / "samples.json").read_text())
    assert described["evaluations"] == 4 and set(described["weights"]) == {"dit", "vae", "weak"}
    assert described["use_ema"] is False and "ema_decay" not in described


@pytest.mark.slow
def test_sweep_goes_on_and_agrees_with_sampling(folder, generator, tmp_path, capsys):
    config = tiny.replaced(generator, "sample", checkpoint=str(folder / "generator"))
    config = tiny.replaced(config, "sweep", num_samples=30, cfg_scale=(1.0, 2.0))
    first = sweep(config, str(tmp_path))
    assert [row["settings"]["cfg_scale"] for row in first] == [1.0, 2.0]
    assert [row["guided_evaluations"] for row in first] == [0, 2]
    wider = tiny.replaced(config, "sweep", solver=("euler", "ucgm"), num_steps=(3, 4))
    capsys.readouterr()
    rows = sweep(wider, str(tmp_path))
    made = [line for line in capsys.readouterr().out.splitlines() if "digits_fid" in line]
    assert len(rows) == 8 and len(made) == 6  # two of the eight were there
    assert rows[0] == first[0] and len(json.loads((tmp_path / "sweep.json").read_text())) == 8
    assert Image.open(tmp_path / "sweep.png").size[0] > 100

    sample(config, str(tmp_path))
    numbers = evaluate(config, str(tmp_path))
    assert first[1]["numbers"]["recognised_share"] == numbers["recognised_share"]


def test_loaded_generator_is_the_average(folder, generator):
    averaged = ldj.load(str(folder / "generator"))
    last = ldj.load(str(folder / "generator"), use_ema=False)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 8))
    t, y = np.array([0.2, 0.7], np.float32), np.array([1, 10])
    assert averaged(x, t, y).shape == x.shape
    assert not np.allclose(averaged.blocks.mlp.w3.kernel[...], last.blocks.mlp.w3.kernel[...])


def test_samples_of_the_wrong_tokenizer_are_refused(folder, generator):
    wrong = tiny.replaced(generator, "sample", tokenizer=str(folder / "generator"))
    with pytest.raises(ValueError, match=r"holds a lightningdit; expected a tokenizer \(vavae\)"):
        sample(wrong, str(folder / "generator"))


def test_another_architecture_in_the_workdir_is_refused(folder, generator, latents):
    other = tiny.config("digits_dit", data__path=str(latents), model__input_size=8, model__depth=3)
    with pytest.raises(ValueError, match=r"another architecture: found depth 2, now 3"):
        train(other, str(folder / "generator"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_multiplier": 0.18215}, r"another latents: found multiplier 1.0, now 0.18215"),
        ({"latent_norm": False}, r"another latents: found mean \[.* 8 values\], now None"),
        ({"path": "other statistics"}, r"another latents: found std \[.*, now \["),
        ({"path": "fewer latents"}, r"another examples: found count 355, now 300"),
    ],
)
def test_a_run_on_other_latents_is_refused(folder, generator, latents, tmp_path, changes, message):
    """What its weights were trained on is not what they would go on with."""
    shutil.copytree(latents, tmp_path / "latents")
    if changes.get("path") == "other statistics":
        stats = load_stats(latents)
        save_stats(tmp_path / "latents", LatentScaling(stats.mean, np.multiply(stats.std, 2)))
    if changes.get("path") == "fewer latents":
        (tmp_path / "latents" / "latents_rank00_shard003.safetensors").unlink()
        (tmp_path / "latents" / "extraction.rank00.json").unlink()  # which names the shard
    before = ldj.latent_stats(str(folder / "generator"))
    if "path" in changes:
        changes = {"path": str(tmp_path / "latents")}
    other = tiny.replaced(generator, "data", **changes)
    with pytest.raises(ValueError, match=message):
        train(other.changed(train={"num_steps": 8}), str(folder / "generator"))
    assert ldj.latent_stats(str(folder / "generator")) == before


def test_missing_checkpoint_is_named(folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        ldj.load(str(folder / "nothing"))
