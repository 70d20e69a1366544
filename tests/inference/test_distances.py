"""Distances in the features of several networks: of files, seeds, training and tokenizers."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

import lightningdit_jax as ldj
from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.evaluation.density_coverage import density_coverage
from lightningdit_jax.evaluation.frechet import Moments, frechet_distance
from lightningdit_jax.evaluation.mind import mind
from lightningdit_jax.evaluation.mmd import cmmd, kid
from lightningdit_jax.evaluation.reference_moments import NetworkMoments, ReferenceMoments
from lightningdit_jax.inference.quality.distances import SIX, Distances, number_names
from lightningdit_jax.inference.quality.in_training import make_training_evaluator
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metrics import make_judge, make_quality
from lightningdit_jax.inference.quality.networks import NETWORKS, network_of, open_networks
from lightningdit_jax.inference.quality.reference import (
    StoredImages,
    check_networks,
    write_reference,
)
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer

COUNT, KEPT = 20, 15
RNG = np.random.default_rng(0)
# Patches of which 256 pixels are no multiple and 224 are one; 6 x 6 and 4 x 4 of them.
SMALL = dataclasses.replace(tiny.VIT, hidden_size=8, depth=1, mlp_hidden=8)
ARCHITECTURES = {
    "dinov2": dataclasses.replace(SMALL, patch_size=50),
    "mae": dataclasses.replace(SMALL, patch_size=56, layer_scale=False),
    "clip": dataclasses.replace(SMALL, patch_size=84, projection=4),
}
MEAN_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def pictures(count, low=0):
    return RNG.integers(low, 256, (count, 20, 20, 3), np.uint8)


def resized(images, side, pixels):
    """Pillow's bicubic of single channels in floats, which antialiases and does not round."""
    mean, std = MEAN_STD[pixels]
    channels = [
        [
            np.asarray(Image.fromarray(c.astype(np.float32)).resize((side, side), Image.BICUBIC))
            for c in np.moveaxis(image, -1, 0)
        ]
        for image in images
    ]
    return ((np.moveaxis(np.array(channels), 1, -1) / 255 - mean) / std).astype(np.float32)


def features(name, path, images):
    """The same by the module in memory."""
    module = ldj.load(path)
    if name == "dinov2":  # seen at 256, and zeros to 300
        padded = np.pad(resized(images, 256, "imagenet"), ((0, 0), (0, 44), (0, 44), (0, 0)))
        return np.asarray(jax.jit(module.pooled)(padded))
    if name == "mae":
        return np.asarray(jax.jit(module.pooled)(resized(images, 224, "imagenet")))
    found = np.asarray(jax.jit(module.embedding)(resized(images, 336, "clip")))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints, images, and a reference file of all of them that keeps some."""
    folder = tmp_path_factory.mktemp("distances")
    paths = {
        kind: tiny.write_network(folder / kind, ViT, architecture, kind)
        for kind, architecture in ARCHITECTURES.items()
    }
    np.savez(folder / "real.npz", pictures(COUNT))
    np.savez(folder / "samples.npz", pictures(COUNT, low=40))
    networks = open_networks([paths["dinov2"], paths["mae"]], 8, make_mesh())
    stored = StoredImages(NpzImages(folder / "real.npz"))
    reference = str(folder / "reference.npz")
    assert write_reference(stored, reference, None, networks, num_kept=KEPT) == COUNT
    return types.SimpleNamespace(folder=folder, paths=paths, reference=reference)


@pytest.fixture
def config(made):
    return tiny.config(
        "digits_dit",
        evaluate__metric="fid",
        evaluate__networks=tuple(made.paths.values()),
        evaluate__reference=made.reference,
        evaluate__samples=str(made.folder / "samples.npz"),
        evaluate__batch_size=8,
    )


def test_every_number_is_that_of_features_taken_one_by_one(config, made, tmp_path):
    numbers = evaluate(config, str(tmp_path))
    real = np.load(made.folder / "real.npz")["arr_0"]
    kept, drawn = (np.load(f)["arr_0"] for f in (made.reference, config.evaluate.samples))
    assert len(kept) == KEPT
    want = {"num_samples": COUNT}
    for name in ("dinov2", "mae"):
        together = features(name, made.paths[name], np.concatenate([real, kept, drawn]))
        whole, some, found = np.split(together, [COUNT, COUNT + KEPT])
        gaussians = [(x.mean(0), np.cov(x.astype(np.float64).T)) for x in (whole, found)]
        want[f"fd_{name}"] = frechet_distance(*gaussians[0], *gaussians[1])
        want[f"kid_{name}"] = kid(some, found).value
        want[f"mind_{name}"] = mind(some, found).value
        density, coverage = density_coverage(some, found)
        want |= {f"density_{name}": density.value, f"coverage_{name}": coverage.value}
    together = features("clip", made.paths["clip"], np.concatenate([kept, drawn]))
    want["cmmd"] = cmmd(together[:KEPT], together[KEPT:]).value
    assert want["fd_mae"] > 1e-3 and want["coverage_dinov2"] > 0
    assert numbers == pytest.approx(want, rel=1e-3, abs=1e-6)
    of = json.loads((tmp_path / "evaluation.json").read_text())["of"]
    assert of["mae"]["path"] == made.paths["mae"] and of["mae"]["resize"] == "bicubic-antialias-224"


def test_images_in_memory_are_judged_as_those_of_a_file(config, made, tmp_path):
    """For several seeds, in sweeps and in training."""
    config = config.changed(evaluate={"networks": (made.paths["mae"],)})
    numbers = evaluate(config, str(tmp_path))
    of = json.loads((tmp_path / "evaluation.json").read_text())["of"]
    images = np.split(np.load(config.evaluate.samples)["arr_0"], 4)
    labels = np.arange(COUNT) % 10
    judge, compared_with = make_judge(config, make_mesh(), ())
    assert judge(iter(images), labels).numbers == pytest.approx(numbers)
    assert compared_with == {name: of[name] for name in ("reference", "mae")}
    streamed = make_quality(config, make_mesh(), ())(iter(images), labels)
    assert {**streamed, "num_samples": COUNT} == pytest.approx(numbers)
    assert streamed.keys() == set(number_names(["mae"]))


def test_every_number_has_an_error_bar(config, made, tmp_path):
    config = config.changed(
        evaluate={"jackknife_blocks": 4, "networks": config.evaluate.networks[1:]}
    )
    numbers = evaluate(config, str(tmp_path))
    bars = json.loads((tmp_path / "evaluation.json").read_text())["error_bars"]["numbers"]
    assert bars.keys() == numbers.keys() - {"num_samples"}
    assert all(bar["standard_error"] > 0 for bar in bars.values())


def test_what_does_not_fit_is_refused_before_samples_are_looked_at(config, made, tmp_path):
    other = tiny.write_network(
        tmp_path / "mae", ViT, dataclasses.replace(ARCHITECTURES["mae"], hidden_size=4), "mae"
    )
    vit = tiny.write_network(tmp_path / "vit", ViT, SMALL, "vit")
    np.savez(tmp_path / "images.npz", arr_0=pictures(9))
    with np.load(made.reference) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "few.npz", **arrays | {"arr_0": arrays["arr_0"][:5]})
    mae, images = made.paths["mae"], str(tmp_path / "images.npz")
    for changes, message in (
        (
            {"networks": (other,)},
            r"another mae network: weights \w{16} in the file and \w{16} here",
        ),
        ({"networks": (mae, other)}, "are both of mae; give one checkpoint a network"),
        ({"networks": (vit,)}, "holds a vit, in whose features no distance is defined"),
        ({"reference": images}, r"lacks \['dinov2_mu', 'dinov2_sigma'\] .* among --networks"),
        ({"reference": str(tmp_path / "few.npz")}, "holds 5 images, .* expected 6 at least"),
        ({"networks": ()}, r"config\.evaluate\.inception is empty; FID needs"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(config.changed(evaluate=changes), str(tmp_path))
    # CMMD needs no statistics, and so ADM's own file is enough.
    of_clip = config.changed(evaluate={"networks": (made.paths["clip"],), "reference": images})
    assert evaluate(of_clip, str(tmp_path)).keys() == {"cmmd", "num_samples"}
    wrong = config.changed(train={"evaluate_every_steps": 1, "best_metric": "fid_mae"})
    with pytest.raises(ValueError, match="best_metric 'fid_mae'; did you mean 'fd_mae'"):
        make_training_evaluator(wrong)
    with pytest.raises(ValueError, match="a network of CMMD, which compares with the images"):
        check_networks("", [made.paths["clip"]])
    with pytest.raises(ValueError, match="--inception and --networks are empty"):
        check_networks("", [])


def test_fdr6_is_the_mean_of_six_distances_over_their_scales(tmp_path):
    scales = [1.68, 56.87, 14.19, 0.04, 0.60, 5.60]  # as published, in the order of SIX
    identity, networks, real, found, arrays = {"network": "x"}, {}, {}, {}, {}
    for name, scale in zip(SIX, scales):
        assert NETWORKS[name].fd_scale == scale
        published = MODELS[NETWORKS[name].kind].published
        networks[name] = types.SimpleNamespace(identity=identity, architecture=published)
        real[name], found[name] = RNG.normal(size=(2, 30, 3))
        moments = Moments.of(real[name]).gaussian
        if name == "inception":
            arrays |= ReferenceMoments(moments, moments, identity).to_arrays()
        else:
            arrays |= NetworkMoments(moments, identity).to_arrays(name)
    np.savez(tmp_path / "reference.npz", **arrays)

    def judged(blocks):
        distances = Distances(networks, str(tmp_path / "reference.npz"), 30)
        return distances.judgment(real, found, blocks, None)

    numbers = judged([]).numbers
    want = np.mean([numbers[f"fd_{name}"] / scale for name, scale in zip(SIX, scales)])
    assert numbers["fdr6"] == pytest.approx(want) and numbers.keys() == set(number_names(SIX))
    assert judged([np.arange(15), np.arange(15, 30)]).bars["fdr6"].standard_error > 0
    # Published is FDr6 in features of the large models alone.
    networks["mae"].architecture = dataclasses.replace(MODELS["mae"].published, depth=12)
    assert "fdr6" not in judged([]).numbers


@pytest.mark.slow  # the tokenizer alone compiles for ten seconds
def test_reconstructions_have_distances_too(made, tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    config = tiny.config(
        "digits_vavae",
        extract__checkpoint=str(tokenizer),
        evaluate__networks=(made.paths["mae"],),
        evaluate__num_images=12,
        evaluate__batch_size=8,
    )
    numbers = evaluate(config, str(tmp_path))
    picture = np.asarray(Image.open(tmp_path / "reconstructions.png"))
    assert numbers["reconstruction_fd_mae"] > 0 and picture.shape[2] == 3
    with pytest.raises(ValueError, match="a network of CMMD, which is of samples"):
        evaluate(config.changed(evaluate={"networks": (made.paths["clip"],)}), str(tmp_path))


def test_a_network_is_told_by_its_checkpoint(made):
    names = {kind: network_of(path) for kind, path in made.paths.items()}
    assert names == {"dinov2": "dinov2", "mae": "mae", "clip": "clip_336"}
