"""One picture through a tokenizer, as docs/data.md says: from Python, and as a command."""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.inference.quality.job import evaluate
from tests import tiny
from tests.inference.tiny_tokenizer import save_tokenizer

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder that the document speaks of: a trained tokenizer and a photograph."""
    monkeypatch.chdir(tmp_path)
    save_tokenizer("runs/photos/tokenizer")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC).save("photo.jpg")


@pytest.mark.slow
def test_from_python(project):
    [block] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["latents"].shape == (1, 8, 8, 8) and names["rebuilt"].shape == (1, 16, 16, 3)
    saved = np.asarray(Image.open("rebuilt.png"))
    np.testing.assert_array_equal(saved, np.asarray(names["rebuilt"])[0])


@pytest.mark.slow
def test_as_a_command(project):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    config = tiny.config(
        "digits_vavae",
        data__source="folder",
        data__path="photo.png",
        extract__checkpoint="runs/photos/tokenizer",
    )
    evaluate(config, "runs/one")
    said = json.loads(pathlib.Path("runs/one/evaluation.json").read_text())
    picture = np.asarray(Image.open("runs/one/reconstructions.png"))
    assert said["num_images"] == 1 and picture.shape == (2 * 66 + 2, 66 + 2, 3)
    original, rebuilt = (picture[y : y + 64 : 4, 2:66:4].astype(float) for y in (2, 68))
    np.testing.assert_array_equal(original, pixels)
    error = np.mean((original - rebuilt) ** 2)
    assert said["reconstruction_psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
