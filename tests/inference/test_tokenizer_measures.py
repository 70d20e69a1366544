"""Measures of a linear tokenizer, whose numbers are known, and of the job that takes them."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.assembly.workdir import check_command_line
from lightningdit_jax.config_jobs import EVALUATE_TOKENIZER
from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.evaluation.frechet import frechet_distance
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality import tokenizer_latents
from lightningdit_jax.inference.quality.comparison import differences, read_evaluations
from lightningdit_jax.inference.quality.digits import digits_judge
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.tokenizer_measures import (
    MEASURES,
    measure,
    measure_choice,
)
from lightningdit_jax.inference.quality.tokenizer_networks import Judges
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.assembly import toy_models
from tests.inference import measure_process
from tests.parallel import processes
from tests.test_glossary import tables

RNG = np.random.default_rng(0)
GRAY = RNG.integers(112, 145, (60, 16, 16, 3), np.uint8)  # no noise leads out of 0 to 255
ROUNDING = 1 / 12  # levels squared, of pixels that were whole


def linear_tokenizer(monkeypatch):
    """Latents are patches turned; the decoder turns them back and adds nothing."""
    toy_models.register(monkeypatch)
    monkeypatch.setattr(toy_models, "BRIGHTER", 0)
    model = toy_models.PatchTokenizer(toy_models.PatchesConfig(2, 12), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    params["kernel"] = np.linalg.qr(params["kernel"])[0]
    return Loaded(graphdef, params, {"kind": "patch_tokenizer"})


def patch_latents(tokenizer, images):
    return toy_models.patches(images / np.float32(127.5) - 1) @ tokenizer.params["kernel"]


def distance(images, others, names):
    """Stands in for LPIPS: the root of the mean square."""
    pair = (local_rows(x, len(names)).astype(float) / 255 for x in (images, others))
    return np.sqrt(np.square(np.subtract(*pair)).mean((1, 2, 3)))


def features(images, names):
    """Stands in for Inception: means of quarters."""
    rows = local_rows(images, len(names)).reshape(-1, 2, 8, 2, 8, 3)
    return rows.mean((2, 4, 5)).reshape(-1, 4) / 10


STAND_INS = Judges(distance, features)


def measured(tokenizer, images, labels, names, *, networks=STAND_INS, count=1):
    return measure(
        tokenizer,
        images,
        labels,
        names,
        networks=networks,
        neighbors=Neighbors(count),
        mesh=make_mesh(devices=jax.devices()[:2]),
        batch_size=16,
    )


def test_what_noise_and_steps_do_to_a_linear_tokenizer(monkeypatch):
    tokenizer = linear_tokenizer(monkeypatch)
    labels = np.arange(60) % 3
    found = measured(tokenizer, GRAY, labels, ["noise", "continuity", "spectrum", "structure"])
    deviation = 127.5 * np.sqrt(patch_latents(tokenizer, GRAY).var((0, 1, 2)).mean())  # levels
    want = {}
    for sigma in (0.125, 0.25, 0.5, 1.0):
        error = (sigma * deviation) ** 2 + ROUNDING
        want[sigma] = 10 * np.log10(255**2 / error)
        assert found[f"noise_psnr_{sigma}"] == pytest.approx(want[sigma], abs=0.05)
        assert found[f"noise_lpips_{sigma}"] == pytest.approx(np.sqrt(error) / 255, rel=0.01)
    assert found["noise_fid_0.125"] < found["noise_fid_0.5"] < found["noise_fid_1.0"]
    slope = np.polyfit([-3, -2, -1, 0], [*want.values()], 1)[0]
    assert found["noise_psnr_slope"] == pytest.approx(slope, abs=0.02)
    assert slope == pytest.approx(-20 * np.log10(2), abs=0.1)
    steps = [np.sqrt((share * deviation) ** 2 + ROUNDING) / 255 for share in (0.1, 0.5, 1.0, 2.0)]
    want = np.average(steps, weights=[10, 2, 1, 0.5])
    assert found["continuity_rmse"] == pytest.approx(want, rel=0.01)
    assert found["continuity_lpips"] == pytest.approx(found["continuity_rmse"], rel=1e-5)
    # Pixels that know nothing of each other: white, of all channels, without structure.
    assert abs(found["latent_spectral_slope"]) < 0.05 and found["latent_effective_rank"] > 0.95
    assert found["latent_high_frequency_share"] == pytest.approx(48 / 63, abs=0.01)
    assert abs(found["latent_local_similarity"]) < 0.01


def test_ifid_is_of_the_decoded_midpoints_of_nearest_latents(monkeypatch):
    """Of a linear tokenizer they are mixtures of images."""
    tokenizer, source = linear_tokenizer(monkeypatch), Digits("test", 16)
    images = np.stack([np.asarray(source.image(i)) for i in range(60)])
    networks = Judges().of_digits(source.class_names, 16)
    found = measured(tokenizer, images, source.labels[:60], ["ifid"], networks=networks)
    x = images.reshape(60, -1).astype(np.float64) / 127.5 - 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(60)
    nearest = cosine.argmax(1)
    angle = np.arccos(cosine.max(1))[:, None]
    middle = np.sin(angle / 2) / np.sin(angle) * (x + x[nearest])
    pixels = np.clip(np.floor(127.5 * middle + 128), 0, 255).astype(np.uint8)
    both = [
        digits_judge().features(digits_to_8x8(i)) for i in (images, pixels.reshape(images.shape))
    ]
    moments = [m for f in both for m in (f.mean(0), np.cov(f.T))]
    assert found["digits_ifid"] == pytest.approx(frechet_distance(*moments), rel=5e-3)
    assert found["reconstruction_digits_fid"] == pytest.approx(0, abs=1e-6)
    # Among ten, one is drawn, the same in every run and another with another seed.
    both = [
        measured(tokenizer, images, source.labels[:60], ["ifid"], networks=networks, count=10)
        for _ in range(2)
    ]
    assert both[0] == both[1] and both[0]["digits_ifid"] > 1.1 * found["digits_ifid"]


@pytest.fixture
def config(monkeypatch, tmp_path):
    toy_models.register(monkeypatch)
    path, _ = toy_models.convert(tmp_path, "patch_tokenizer")
    return tiny.config(
        "digits_vavae",
        extract__checkpoint=path,
        extract__path=str(tmp_path / "latents"),
        data__split="train",
        evaluate__measures=tuple(MEASURES),
    )


def test_the_job_says_what_measure_says_and_all_of_it_is_explained(config, tmp_path, monkeypatch):
    # t-SNE itself takes seconds.
    monkeypatch.setattr(tokenizer_latents, "tsne_layout", lambda vectors, seed: vectors[:, :2])
    extract(config, "")
    stored = config.changed(evaluate={"ifid_latents": str(tmp_path / "latents")})
    found = {}
    for name, each in (("own", config), ("stored", stored)):
        numbers = evaluate(each, str(tmp_path / name))
        written = json.loads((tmp_path / name / "evaluation.json").read_text())
        of = written.pop("of")
        assert written == numbers
        found[name] = numbers, of["ifid"]
    numbers, of = found["own"]
    assert of == {"neighbors": 10, "among": {"source": "digits", "count": 355, "split": "test"}}
    assert found["stored"][1]["among"] == {"source": "digits", "count": 1442, "split": "train"}
    differing = {n for n, value in found["stored"][0].items() if value != numbers[n]}
    assert differing == {"digits_ifid"}  # nearer neighbors among more
    assert found["stored"][0]["digits_ifid"] < numbers["digits_ifid"]
    with pytest.raises(ValueError, match="do not compare: their neighbors of iFID differ"):
        files = [tmp_path / name / "evaluation.json" for name in found]
        differences(*(read_evaluations(path)[0] for path in files))
    _, explained = tables()
    names = {name.rpartition("_")[0] + "_SIGMA" if "." in name else name for name in numbers}
    assert names <= explained
    assert len(numbers) == 3 + 2 + 1 + 8 + 1 + 3 + 1 + 3 + 3


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_two_processes_measure_what_one_does(stored, config, tmp_path):
    latents = str(extract(config, "")) if stored else ""
    both = tmp_path / "both"
    both.mkdir()
    arguments = (config.extract.checkpoint, latents)
    statuses, outputs = processes.finish(
        processes.start(
            "tests.inference.measure_process", *arguments, str(both), processes=2, devices=2
        )
    )
    assert statuses == [0, 0], "\n".join(outputs)
    found = [json.loads((both / f"numbers{rank}.json").read_text()) for rank in (0, 1)]
    expected = measure_process.run(*arguments, str(tmp_path / "alone"))
    assert found[0] == found[1] and found[0].keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[0][name], value, rtol=2e-3, atol=1e-6, err_msg=name)


def test_what_a_measure_lacks_is_said_before_anything_is_rebuilt(config, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_models.PatchTokenizer, "decode", None)

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            evaluate(config.changed(**changes), str(tmp_path))

    refused("measures 'ifit'; did you mean 'ifid'", evaluate={"measures": ("ifit",)})
    refused("ifid_neighbors is 10, and there are 4 latents", evaluate={"num_images": 5})
    few = {"num_images": 5, "measures": ("evenness",)}
    refused("'evenness', and there are 5 images; it takes more than 30", evaluate=few)
    one = {"num_images": 1, "measures": ("probe",)}
    refused("'probe', and all images are of one class", evaluate=one)
    small = {"ifid_latents": str(tiny.write_latents(tmp_path / "small"))}
    refused(r"\[4, 4, 8\], and those of the images are \[8, 8, 12\]", evaluate=small)
    extract(config.changed(data={"split": "test"}), "")
    record = tmp_path / "latents" / "extraction.json"
    very = {"ifid_latents": str(tmp_path / "latents")}
    refused("holds latents of the very images", evaluate=very)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tokenizer": "0123"}))
    refused("holds latents of another tokenizer, 0123, and this one is", evaluate=very)
    images = np.zeros((3, 16, 16, 3), np.uint8)
    tokenizer = linear_tokenizer(monkeypatch)
    with pytest.raises(ValueError, match=r"'ifid', which needs config\.evaluate\.inception"):
        measured(tokenizer, images, np.arange(3), ["ifid"], networks=Judges())
    with pytest.raises(ValueError, match="'probe', and all images are of one class"):
        measured(tokenizer, images, np.full(3, 5), ["probe"])


def test_keys_of_a_measure_that_is_not_taken_are_refused(config):
    job, choices = [EVALUATE_TOKENIZER], [measure_choice()]
    key = "evaluate.ifid_neighbors"
    check_command_line(config, [key], job, "", choices)
    none = config.changed(evaluate={"measures": ()})
    other = config.changed(evaluate={"measures": ("noise", "probe")})
    for each, said in ((none, r"\(\)"), (other, "'noise', 'probe'")):
        with pytest.raises(ValueError, match=f"measures is {said}, which .* reads it: 'ifid'"):
            check_command_line(each, [key], job, "", choices)
    wrong = config.changed(evaluate={"measures": ("noise", "prob")})
    with pytest.raises(ValueError, match="measures 'prob'; did you mean 'probe'"):
        check_command_line(wrong, [], job, "", choices)
