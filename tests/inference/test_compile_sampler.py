"""The sampler compiled ahead of time for a TPU slice that is not there."""

import json

import pytest

from lightningdit_jax.inference.sampling.compile import compile_sampler
from tests import tiny


def config(**changes):
    values = {
        "model__depth": 2,
        "model__hidden_size": 64,
        "model__num_heads": 2,
        "model__in_channels": 8,
        "tokenizer__ch": 32,
        "tokenizer__resolution": 16,
        "tokenizer__ch_mult": (1, 1),
        "tokenizer__encoder_attn_resolutions": (8,),
        "tokenizer__decoder_attn_resolutions": (8,),
        "tokenizer__z_channels": 8,
        "tokenizer__embed_dim": 8,
        "sample__batch_size": 6,
        "sample__num_steps": 5,
        "sample__cfg_interval_start": 0.0,
    }
    return tiny.config("digits_dit", **values | changes)


def test_compiles_for_a_slice(tmp_path):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra `tpu`")
    report = compile_sampler(config(), str(tmp_path), "v5e:2x4")
    assert report == json.loads((tmp_path / "compile_sample_v5e_2x4.json").read_text())
    assert report["target"] == "sample" and report["batch_size"] == 8  # a row for each device
    assert report["evaluations_per_image"] == 2 * 4  # four steps, both halves of the guidance
    assert 0.9 <= report["matmul_flops"] / report["model_flops"] < 1.5
    assert 0 < report["peak_bytes"] < report["hbm_bytes"]


def test_compiles_for_gpus(tmp_path):
    pytest.importorskip("jax_plugins.xla_cuda13", reason="it needs the extra `cuda`")
    report = compile_sampler(config(), str(tmp_path), "h100:2")
    assert report == json.loads((tmp_path / "compile_sample_h100_2.json").read_text())
    # The loop over time counts four times, its conditions the guided side.
    assert 0.9 <= report["matmul_flops"] / report["model_flops"] < 1.5
    assert sum(report["collective_bytes"].values()) < 10_000  # no activations
    assert any("conv" in call for call in report["library_calls"])  # the decoder's


def test_a_tokenizer_of_other_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"in_channels is 8, config\.tokenizer\.embed_dim 32"):
        compile_sampler(config(tokenizer__embed_dim=32), str(tmp_path), "v5e:2x4")


@pytest.mark.parametrize(
    "changes", [{"sample__solver": "dopri5"}, {"sample__weak_checkpoint": "somewhere"}]
)
def test_what_it_does_not_know_is_refused(tmp_path, changes):
    with pytest.raises(ValueError, match="neither autoguidance nor solvers that choose"):
        compile_sampler(config(**changes), str(tmp_path), "v5e:2x4")
