"""FDr6's CLIP, SigLIP 2 and ConvNeXt V2: what they are shown and what is taken of them."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lightningdit_jax.inference.quality.networks import NETWORKS
from lightningdit_jax.models.convnext import ConvNeXtV2, ConvNeXtV2Config
from lightningdit_jax.models.vit import ViT
from tests import tiny

SMALL = dataclasses.replace(tiny.VIT, hidden_size=8, depth=1, mlp_hidden=8, layer_scale=False)
POOL = {"class_token": False, "class_pos_embed": False, "attention_pool": True}
# Pixels, and patches of which they are no multiple and one.
CASES = {
    "clip": (256, ViT, dataclasses.replace(SMALL, patch_size=50, activation="quick_gelu")),
    "siglip2": (224, ViT, dataclasses.replace(SMALL, patch_size=56, **POOL)),
    "convnextv2": (224, ConvNeXtV2, ConvNeXtV2Config((1, 1), (4, 4))),
}
MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip2": (0.5, 0.5),
    "convnextv2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def shown(images, side, mean_std):
    """Pillow's bicubic of single channels in floats, which antialiases and does not round."""
    resized = [
        [
            np.asarray(Image.fromarray(c.astype(np.float32)).resize((side, side), Image.BICUBIC))
            for c in np.moveaxis(image, -1, 0)
        ]
        for image in images
    ]
    mean, std = mean_std
    return ((np.moveaxis(np.array(resized), 1, -1) / 255 - mean) / std).astype(np.float32)


@pytest.mark.parametrize(("name", "size"), [("clip", 40), ("siglip2", 300), ("convnextv2", 40)])
def test_features_are_those_of_the_network_on_images_as_pillow_resizes_them(name, size):
    side, module, config = CASES[name]
    network = module(config, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    pixels, meant = shown(images, side, MEAN_STD[name]), network
    if name == "clip":  # zeros to 300; and PyTorch's GELU, which differs by 0.03 there
        pixels = np.pad(pixels, ((0, 0), (0, 44), (0, 44), (0, 0)))
        meant = module(dataclasses.replace(config, activation="gelu"), rngs=nnx.Rngs(0))

    @jax.jit
    def run(images, pixels):
        features = NETWORKS[name].features(network, images)
        if name == "convnextv2":
            return features, meant(pixels).mean((1, 2))
        return features, meant.pooled(pixels)

    got, want = run(images, pixels)
    np.testing.assert_allclose(got, want, atol=1e-4)
