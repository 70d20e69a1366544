"""Fewer images than processes: some have nothing to do, and all end well."""

import json

import numpy as np
import PIL.Image
import pytest

from lightningdit_jax.data.latents import LatentShards
from tests.inference import few_images_process
from tests.inference.tiny_tokenizer import save_tokenizer
from tests.parallel import processes


@pytest.mark.slow
def test_one_image_in_two_processes_is_as_in_one(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    images = tmp_path / "images" / "0"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(images / "0.png")

    both, alone = tmp_path / "both", tmp_path / "alone"
    both.mkdir()
    alone.mkdir()
    module, arguments = "tests.inference.few_images_process", (tokenizer, images.parent, both)
    statuses, outputs = processes.finish(
        processes.start(module, *arguments, processes=2, devices=1)
    )
    assert statuses == [0, 0], "\n".join(outputs)
    found = [json.loads((both / f"numbers{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1] and found[0]["num_images"] == found[0]["count"] == 1

    expected = few_images_process.run(tokenizer, str(images.parent), alone)
    assert expected.keys() == found[0].keys()
    assert found[0]["reconstruction_lpips"] > 0
    for name, value in expected.items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-5, err_msg=name)
    # Original above reconstruction, of the one image there is.
    pictures = [np.asarray(PIL.Image.open(f / "reconstructions.png")) for f in (both, alone)]
    np.testing.assert_allclose(*(p.astype(int) for p in pictures), atol=1)
    shards = [LatentShards(folder / "latents") for folder in (both, alone)]
    assert len(shards[0]) == len(shards[1]) == 1
    latents = [found.read(np.arange(1), np.zeros(1, bool)) for found in shards]
    np.testing.assert_allclose(*latents, rtol=1e-4, atol=1e-5)
