"""Ahead-of-time compilation for a TPU slice that is not there."""

import json

import pytest

from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.training.compile import compile_train_step
from tests import tiny


def config(**changes):
    return tiny.config(
        "digits_dit", **{"model__hidden_size": 128, "train__batch_size": 64, **changes}
    )


def test_flops_of_the_published_model():
    published = tiny.config("dit_xl")
    assert forward_flops(generator_config(published)) == pytest.approx(237.25e9, rel=1e-4)


def test_compiles_for_a_slice(tmp_path):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra `tpu`")
    report = compile_train_step(config(mesh__fsdp=4), str(tmp_path), "v5e:2x4")
    assert report == json.loads((tmp_path / "compile_v5e_2x4.json").read_text())
    assert report["num_devices"] == 8 and report["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    # Without remat the compiled products are the model's, and the rotation of q and k.
    assert 1.0 <= report["matmul_flops"] / report["model_flops"] < 1.25
    assert 0 < report["peak_bytes"] < report["hbm_bytes"]
    assert 0 < report["estimated_mfu"] < 1 and report["collectives"]["all-gather"] > 0
    assert report["collective_bytes"]["all-gather"] > 0
    assert sum(report["cycle_shares"].values()) == pytest.approx(1)
    exposed = report["exposed_communication_seconds"]
    assert 0 < exposed <= report["communication_seconds"]
    assert report["step_seconds"] == pytest.approx(report["estimated_seconds"] + exposed)
    assert report["step_mfu"] < report["estimated_mfu"] and report["bound_by"]


def test_attention_s_kernel_has_its_cycles(tmp_path):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra `tpu`")
    sizes = {"compute__dtype": "bfloat16", "model__num_heads": 2}
    report = compile_train_step(config(**sizes, mesh__fsdp=4), str(tmp_path), "v5e:2x4")
    cycles = {"attention_forward", "attention_backward"}
    assert cycles <= report["product_cycle_shares"].keys()
    shares = sum(report["product_cycle_shares"][name] for name in cycles)
    assert report["cycle_shares"]["attention's kernel"] == pytest.approx(shares) and shares > 0
    # Its products are seven where the model counts six, which counts gradients of latents too.
    assert 0.95 <= report["matmul_flops"] / report["model_flops"] < 1.1


def test_compiles_for_gpus(tmp_path):
    pytest.importorskip("jax_plugins.xla_cuda13", reason="it needs the extra `cuda`")
    asked = config(compute__dtype="bfloat16", compute__remat="none", train__batch_size=128)
    report = compile_train_step(asked, str(tmp_path), "h100:8")
    assert report == json.loads((tmp_path / "compile_h100_8.json").read_text())
    assert report["num_devices"] == 8 and report["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    depth, calls = asked.model.depth, report["library_calls"]
    # attention=auto takes there what it takes on a card that is there, once each way a block.
    assert calls["__cudnn$fmhaSoftmax"] == calls["__cudnn$fmhaSoftmaxBackward"] == depth
    assert calls["__cublas$lt$matmul"] > 15 * depth
    # The model's products, and attention's weights once more.
    assert 1.0 <= report["matmul_flops"] / report["model_flops"] < 1.1
    assert 0 < report["peak_bytes"] < report["hbm_bytes"]
    # Gradients are summed in bfloat16; each card keeps its part of the batch.
    weights = report["argument_bytes"] / 4 / 4  # with moments and average, in float32
    assert report["collective_bytes"] == {"all-reduce": pytest.approx(2 * weights, rel=0.02)}
    assert report["kernel_seconds"].keys() == report["kernel_bytes"].keys()
    assert sum(report["kernel_seconds"].values()) == pytest.approx(report["estimated_seconds"])
    assert {"SwiGLU", "SwiGLU backward", "make_optimizer"} <= report["pass_seconds"].keys()


@pytest.mark.parametrize(("topology", "message"), [("v9:2x2", "unknown chip in --topology 'v9'")])
def test_unknown_slices_are_named(tmp_path, topology, message):
    with pytest.raises(ValueError, match=message):
        compile_train_step(config(), str(tmp_path), topology)
