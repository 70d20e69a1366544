"""The tokenizer's step ahead of time: its arithmetic, its published networks, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.assembly.registry import MODELS, abstract_model
from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAE, ResnetBlock
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.compile import compile_train_step
from lightningdit_jax.training.frozen import abstract_frozen_networks
from lightningdit_jax.training.vae_flops import vae_step_flops
from tests import tiny


def whole_loss(**changes):
    """The tiny tokenizer with every loss, its frozen networks the published ones."""
    values = {
        "vae_loss__perceptual_weight": 1.0,
        "vae_loss__disc_weight": 0.5,
        "vae_loss__alignment": "dinov2",
        "discriminator__ndf": 4,
        "discriminator__num_layers": 1,
        "frozen__foundation": "",
    }
    return tiny.config("digits_vavae", **values | changes)


@pytest.mark.parametrize(
    ("kind", "count"),
    # DINOv2's without its token of masked patches.
    [("dinov2", 304_368_640 - 1_024), ("mae", 303_301_632), ("lpips", 14_714_688 + 1_472)],
)
def test_published_networks_have_their_number_of_parameters(kind, count):
    _, params = abstract_model(kind, MODELS[kind].published)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_flops_of_loops_and_convolutions():
    def function(x, kernel, weight):
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.scan(lambda y, _: (y @ weight, None), x, length=3)[0]

    flops = matmul_flops(jax.jit(function), *map(jnp.zeros, ((2, 8, 8, 4), (3, 3, 4, 5), (5, 5))))
    outputs = 2 * 4 * 4 * 5
    assert flops == 2 * outputs * 3 * 3 * 4 + 3 * 2 * outputs * 5


def test_flops_of_the_published_step():
    config = tiny.config("vavae_f16d32")
    flops = vae_step_flops(config, abstract_frozen_networks(config, make_mesh()))
    # The 13 convolutions of VGG16 as the paper's table 1 has them, at 256x256.
    stages = [(3, 64), (64, 64)], [(64, 128), (128, 128)], [(128, 256), *[(256, 256)] * 2]
    stages += ([(256, 512), *[(512, 512)] * 2], [(512, 512)] * 3)
    vgg = sum(
        18 * a * b * (256 >> level) ** 2 for level, convs in enumerate(stages) for a, b in convs
    )
    assert flops["lpips"] == 3 * vgg
    # DINOv2's 24 blocks of 12 D^2 parameters on 257 tokens, their attention, and the patches.
    dim, tokens = 1024, 257
    vit = 2 * (24 * (12 * dim**2 * tokens + 2 * tokens**2 * dim) + 256 * 14 * 14 * 3 * dim)
    assert flops["foundation"] == pytest.approx(vit, rel=1e-3)  # and its positions resampled


def test_flops_of_the_alignment_are_a_pass_of_the_decoder_more():
    of_cka = whole_loss(vae_loss__alignment_loss="cka")
    aligned, alone, balanced = (
        vae_step_flops(c, abstract_frozen_networks(c, make_mesh()))
        for c in (whole_loss(), whole_loss(vae_loss__alignment="none"), of_cka)
    )
    assert aligned["decoder"] * 3 == alone["decoder"] * 4
    assert set(aligned) - set(alone) == {"foundation"}
    # Balanced with all other terms, whose gradient reaches the latent anyway, it needs none.
    assert balanced == alone | {"foundation": aligned["foundation"]}


def residual_block(remat):
    """A block of other widths in and out, and its gradient by parameters and input."""
    block = ResnetBlock(32, 64, dtype=jnp.float32, remat=remat, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(block, nnx.Param)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))

    def loss(params, x):
        return jnp.square(nnx.merge(graphdef, params)(x)).mean()

    return jax.grad(loss, argnums=(0, 1)), params, x


# Beside the gradient itself no remat repeats the second convolution, which no gradient needs.
FIRST_CONVOLUTION = 2 * (2 * 8 * 8 * 64) * 9 * 32


@pytest.mark.parametrize(("remat", "repeated"), [("conv", 0), ("block", FIRST_CONVOLUTION)])
def test_remat_changes_no_gradient(remat, repeated):
    plain, params, x = residual_block("none")
    rematerialized, again, _ = residual_block(remat)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        jax.jit(rematerialized)(again, x),
        jax.jit(plain)(params, x),
    )
    assert matmul_flops(rematerialized, again, x) - matmul_flops(plain, params, x) == repeated


def test_every_residual_block_is_rematerialized():
    config = tokenizer_config(whole_loss(tokenizer__num_res_blocks=1))
    graphdef, params = nnx.split(
        nnx.eval_shape(lambda: VAVAE(config, remat="block", rngs=CountedRngs(0)))
    )
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    trace = jax.make_jaxpr(lambda p, x: nnx.merge(graphdef, p).encode(x).mean)(params, images)
    # Two levels of one block, and two in the middle.
    assert sum("prevent_cse" in equation.params for equation in trace.eqns) == 4


def test_unknown_remat_is_named():
    config = tokenizer_config(whole_loss())
    with pytest.raises(ValueError, match="unknown remat policy of a tokenizer 'attention'"):
        VAVAE(config, remat="attention", rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_whole_loss_compiles_for_a_slice_without_weights(tmp_path, monkeypatch):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra `tpu`")
    tiny.publish(monkeypatch, "dinov2", tiny.VIT)
    changes = {"mesh__fsdp": 2, "compute__remat": "block", "train__batch_size": 16}
    config = whole_loss(compute__compile_effort="quick", **changes)
    report = compile_train_step(config, str(tmp_path), "v5e:2x4")
    assert (tmp_path / "compile_v5e_2x4.json").is_file()
    assert report["variant"] == "f2d8" and report["mesh"]["fsdp"] == 2
    assert 0 < report["peak_bytes"] < report["hbm_bytes"]
    assert 1.0 <= report["matmul_flops"] / report["model_flops"] < 2.0
    assert 0 < report["estimated_mfu"] < 1 and report["collectives"]["all-reduce"] > 0
    assert report["compile_effort"] == "quick"
    assert sum(report["component_cycle_shares"].values()) == pytest.approx(1)
    assert set(report["component_cycle_shares"]) >= {"encoder", "decoder", "lpips", "discriminator"}


def test_networks_of_ones_own_need_a_path():
    config = whole_loss(vae_loss__alignment="vit")
    with pytest.raises(ValueError, match=r"config.frozen.foundation is empty"):
        abstract_frozen_networks(config, make_mesh())
