"""A source of images is a row and nothing else: one that the package does not know is read."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import lightningdit_jax as ldj
from lightningdit_jax.assembly.choices import source_choice
from lightningdit_jax.assembly.workdir import check_command_line
from lightningdit_jax.config_jobs import EXTRACT, TRAIN_TOKENIZER
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.sources import SOURCES, Source, describe_images, open_images
from lightningdit_jax.inference.extraction.job import extract
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer


class Stripes:
    """As many images as the path says, each of one gray."""

    class_names, num_classes, notes = ("dark", "bright"), 2, ()

    def __init__(self, path):
        self._count = int(path)

    def __len__(self):
        return self._count

    def image(self, index):
        return Image.new("RGB", (20, 24), (index * 10,) * 3)

    def label(self, index):
        return index % 2

    def name(self, index):
        return f"stripe {index}"


def sharpen(params):
    """Posteriors that tell one gray from another: e^-6 times as wide."""
    params["quant_conv"]["bias"][8:] -= 12


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "stripes", Source(lambda path, **_: Stripes(path), ("path",)))
    save_tokenizer(tmp_path / "tokenizer", change=sharpen)
    return tiny.config(
        "digits_vavae",
        data__source="stripes",
        data__path="21",
        extract__path=str(tmp_path / "latents"),
        extract__batch_size=8,
    )


@pytest.mark.slow
def test_its_latents_are_extracted(config, tmp_path):
    extract(config, str(tmp_path / "tokenizer"))
    shards = LatentShards(tmp_path / "latents")
    assert len(shards) == 21 and shards.class_names == ("dark", "bright")
    [file] = (tmp_path / "latents").glob("latents_rank*.safetensors")
    assert load_file(file)["labels"].tolist() == [i % 2 for i in range(21)]
    latents = shards.read(np.arange(21), np.zeros(21, bool))
    # Samples of the posteriors of its images, in its order.
    grays = [np.full((16, 16, 3), i * 10, np.uint8) for i in range(21)]
    posterior = ldj.load(str(tmp_path / "tokenizer")).encode(ldj.to_model_range(np.stack(grays)))
    normal = (latents - posterior.mean) / posterior.std
    assert np.abs(normal).max() < 6 and normal.std() == pytest.approx(1, abs=0.05)
    assert np.abs((latents[::-1] - posterior.mean) / posterior.std).max() > 10
    record = json.loads((tmp_path / "latents" / "extraction.json").read_text())
    assert record["images"]["source"] == "stripes" and "split" not in record["images"]


def test_the_keys_it_reads_are_its_rows(config):
    choices = [source_choice()]
    for job in (TRAIN_TOKENIZER, EXTRACT):
        check_command_line(config, ["data.path"], [job], "", choices)
        for key in ("data.split", "data.corrupt"):
            with pytest.raises(ValueError, match=rf"{key} is given .*data\.source is 'stripes'"):
                check_command_line(config, [key], [job], "", choices)


def test_another_name_is_refused():
    with pytest.raises(
        ValueError, match="source is 'latents'; images come from 'digits', 'folder'"
    ):
        open_images("latents", path="", split="", size=8, tfds_name="")


def folder_of(path):
    return open_images("folder", path=str(path), split="", size=8, tfds_name="")


def test_a_file_that_is_no_image_is_refused_when_it_is_opened(tmp_path):
    picture = tmp_path / "picture"  # of whatever suffix
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(picture, "PNG")
    assert describe_images(folder_of(picture)) == ["1 image, 1 class: picture 1"]
    text, cut = tmp_path / "labels.txt", tmp_path / "cut.png"
    text.write_text("a.png,cat\n")
    cut.write_bytes(picture.read_bytes()[:100])
    for file in (text, cut):
        with pytest.raises(ValueError, match=rf"{file.name} cannot be decoded .* or 'webdataset'"):
            folder_of(file)
