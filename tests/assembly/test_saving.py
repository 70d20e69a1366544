"""What is saved is what is loaded, and says of itself what the commands ask."""

import jax
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.assembly.describe import describe
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.models.vit import ViT
from tests import tiny
from tests.inference.tiny_generator import random_generator


def test_a_generator_comes_back(tmp_path):
    dit = random_generator(tiny.dit_config(aux_head_depth=1))
    dit.flow = Flow("gvp", "noise")
    dit.latent_scaling = ldj.LatentScaling(tuple(range(8)), (2.0,) * 8, 0.5)
    ldj.save(str(tmp_path / "dit"), dit, step=70)
    found = ldj.load(str(tmp_path / "dit"))
    assert (found.config, found.flow, found.latent_scaling) == (
        dit.config,
        dit.flow,
        dit.latent_scaling,
    )
    for got, want in zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (found, dit))):
        np.testing.assert_array_equal(got, want)
    assert any("step 70" in line for line in describe(str(tmp_path / "dit")))


def test_a_tokenizer_comes_back(tmp_path):
    vae = ldj.VAVAE(tokenizer_config(tiny.config("digits_vavae")), rngs=nnx.Rngs(0))
    ldj.save(str(tmp_path / "vae"), vae)
    found = ldj.load(str(tmp_path / "vae"))
    assert found.config == vae.config and found.latent_scaling is None
    z = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(found.decode(z), vae.decode(z))


def test_what_is_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is there already; name another folder, or delete it"):
        ldj.save(str(tmp_path), random_generator())
    vit = ViT(tiny.VIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"model is a ViT; expected .*: LightningDiT, VAVAE"):
        ldj.save(str(tmp_path / "vit"), vit)
    assert not (tmp_path / "vit").exists()
