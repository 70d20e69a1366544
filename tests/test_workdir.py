"""A workdir remembers the config it was made with, and checkpoints what their weights mean."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax import config as configs
from lightningdit_jax.assembly import models
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.assembly.models import generator_options, tokenizer_config
from lightningdit_jax.assembly.workdir import (
    check_command_line,
    check_taken,
    read_config,
    remembered,
    write_config,
)
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.config_jobs import (
    EVALUATE_SAMPLES,
    EXTRACT,
    SAMPLE,
    SWEEP,
    TRAIN_GENERATOR,
    TRAIN_TOKENIZER,
    is_taken,
)
from lightningdit_jax.configs import base
from lightningdit_jax.configs import workdir as workdir_config
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.extraction.job import extract
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import HeadsShard
from lightningdit_jax.training import run
from lightningdit_jax.training.job import make_job
from tests import tiny
from tests.inference.tiny_generator import random_generator, save_generator

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of 32 pixels, where its config file says 16."""
    config = tiny.config("digits_vavae", tokenizer__resolution=32)
    path = tmp_path_factory.mktemp("tokenizer") / "checkpoint"
    return tiny.write_network(path, VAVAE, tokenizer_config(config), "vavae")


@pytest.mark.slow
def test_later_modes_run_at_the_resolution_of_the_checkpoint(tokenizer, tmp_path):
    at_16 = tiny.config(
        "digits_vavae", extract__path=str(tmp_path / "latents"), extract__checkpoint=tokenizer
    )
    extract(at_16, str(tmp_path))
    shards = LatentShards(tmp_path / "latents")
    assert shards.read(np.arange(2), np.zeros(2, bool)).shape == (2, 16, 16, 8)
    assert json.loads((tmp_path / "latents" / "extraction.json").read_text())["resolution"] == 32
    numbers = evaluate(at_16, str(tmp_path))
    at_32 = at_16.changed(tokenizer={"resolution": 32})
    assert evaluate(at_32, str(tmp_path)) == numbers


def test_a_command_line_that_says_otherwise_is_refused(tokenizer):
    config, lines = tiny.config("digits_vavae"), []
    with pytest.raises(
        ValueError,
        match=r"config.tokenizer.resolution is 16 on the command line, but .* was trained with 32",
    ):
        check_taken(config, ["tokenizer.resolution"], EXTRACT, tokenizer, lines.append)
    assert lines == []
    check_taken(config, ["seed"], EXTRACT, tokenizer, lines.append)
    assert len(lines) == 1 and "config.tokenizer.resolution 32 (not 16)" in lines[0]
    agreed = config.changed(tokenizer={"resolution": 32})
    check_taken(agreed, ["tokenizer.resolution"], EXTRACT, tokenizer, lines.append)
    assert len(lines) == 1


def test_config_json_is_there_before_the_first_step(tmp_path, monkeypatch):
    def looks(loop):
        assert read_config(str(tmp_path)) == config

    path = str(tiny.write_latents(tmp_path / "latents"))
    config = tiny.config("digits_dit", data__path=path, compute__remat="dots")
    monkeypatch.setattr(run.Loop, "run", looks)
    run.train(config, str(tmp_path))


@pytest.mark.parametrize("name", ["digits_dit", "digits_vavae", "vavae_f16d32_long", "dit_xl"])
def test_a_config_comes_back_from_its_workdir(name, tmp_path):
    config = tiny.config(name).changed(
        model={"depth": 7}, tokenizer={"encoder_attn_resolutions": (8, 4)}, sweep={"num_steps": ()}
    )
    write_config(config, str(tmp_path))
    assert read_config(str(tmp_path)) == config
    assert configs.from_dict(workdir_config.get_config((tmp_path / "config.json").read_text())) == (
        config
    )
    (tmp_path / "config.json").write_text('{"kind": "vavae", "sed": 0}')
    with pytest.raises(ValueError, match=r"config\.json is no config .*'sed'; did you mean 'seed'"):
        read_config(str(tmp_path))
    assert read_config(str(tmp_path / "elsewhere")) is None


def test_a_config_of_before_a_key_came_has_its_default(tmp_path):
    config = tiny.config("digits_dit", seed=3, optimizer__beta2=0.5)
    stored = config.to_dict()
    del stored["optimizer"]["schedule"], stored["sweep"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"config\.json .*optimizer\.schedule is missing"):
        read_config(str(tmp_path))
    defaults = base.get_config().to_dict()
    assert read_config(str(tmp_path), defaults) == config
    with pytest.raises(ValueError, match=r"config\.seed is given"):
        check_command_line(
            config.changed(train={"num_steps": 5}),
            ["seed"],
            [EVALUATE_SAMPLES],
            str(tmp_path / "elsewhere"),
            (),
            defaults,
        )
    check_command_line(config, ["seed"], [EVALUATE_SAMPLES], str(tmp_path), (), defaults)


def test_a_key_that_restates_the_workdir_passes(tmp_path):
    config = tiny.config("digits_vavae", frozen__foundation="F")
    with pytest.raises(ValueError, match=r"config.frozen.foundation is given .*--mode=extract"):
        check_command_line(config, ["frozen.foundation"], [EXTRACT], str(tmp_path), ())
    write_config(config, str(tmp_path))
    check_command_line(config, ["frozen.foundation", "seed"], [EXTRACT], str(tmp_path), ())
    other = config.changed(frozen={"foundation": "G"})
    with pytest.raises(ValueError, match=r"config.frozen.foundation is given"):
        check_command_line(other, ["frozen.foundation"], [EXTRACT], str(tmp_path), ())


def test_a_checkpoint_to_start_from_is_refused_in_training(tmp_path):
    config = tiny.config("digits_dit", sample__checkpoint="C")
    for job in (TRAIN_GENERATOR, TRAIN_TOKENIZER):
        with pytest.raises(ValueError, match="a new one starts from the weights of"):
            check_command_line(config, ["sample.checkpoint"], [job], str(tmp_path), ())


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """Two blocks of width 16 on raw latents times 0.5, to the noise."""
    path = tmp_path_factory.mktemp("generator") / "checkpoint"
    flow = Flow("vp", "noise")
    return str(
        save_generator(path, random_generator(), flow=flow, scaling=LatentScaling(multiplier=0.5))
    )


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"flow__path": "gvp"}, "flow.path", "flow.path is gvp .* was trained with vp"),
        ({}, "data.latent_norm", "latent_norm is True .* was trained with False"),
        (
            {"data__latent_multiplier": 0.25},
            "data.latent_multiplier",
            "latent_multiplier is 0.25 .* was trained with 0.5",
        ),
        ({"model__depth": 5}, "model.depth", "model.depth is 5 .* was trained with 2"),
        (
            {"model__depth": None, "model__variant": "L/1"},
            "model.variant",
            "model.variant is L/1 on the command line, which means model.depth 24, but",
        ),
    ],
)
def test_a_generator_is_what_its_checkpoint_says(generator, changes, given, message):
    config, lines = tiny.config("digits_dit", **changes), []
    with pytest.raises(ValueError, match=message):
        check_taken(config, [given], SAMPLE, generator, lines.append)
    check_taken(config, ["model.num_classes", "tokenizer.ch"], SAMPLE, generator, lines.append)
    # A variant is told as the sizes it sets.
    told = "model.depth" if given == "model.variant" else given
    assert len(lines) == 1 and f"config.{told} " in lines[0]


def test_every_key_that_a_checkpoint_tells_is_compared(generator, tokenizer):
    """No more and no less than the table says jobs take from it."""
    for path, job in ((generator, SAMPLE), (generator, SWEEP), (tokenizer, EXTRACT)):
        told = remembered(read_meta(find_checkpoint(path)))
        sizes = {"model.variant"}  # stands in the sizes that it sets
        assert told.keys() == {k for k in key_types(Config) if is_taken(k, job)} - sizes


def mesh_of(platform, kind):
    device = types.SimpleNamespace(platform=platform, device_kind=kind, compute_capability="9.0")
    return types.SimpleNamespace(devices=np.array([device], object), shape={"tensor": 1})


def test_blocks_run_as_suits_the_devices_of_the_mesh(monkeypatch):
    """A GPU that is here decides nothing for TPUs that are compiled for, nor the other way."""
    architecture = tiny.dit_config(hidden_size=64)
    gpu, tpu = mesh_of("gpu", "NVIDIA H100"), mesh_of("tpu", "TPU v5 lite")
    auto = tiny.config("digits_dit", compute__dtype="bfloat16").compute
    for here in (gpu, tpu):
        monkeypatch.setattr(jax, "devices", lambda here=here: [here.devices[0]])
        options = generator_options(auto, architecture, gpu)
        assert options == {"attention": "cudnn", "scan_unroll": 2}
        assert generator_options(auto, architecture, tpu) == {"attention": "xla", "scan_unroll": 1}
    asked = dataclasses.replace(auto, attention="cudnn", scan_unroll=7)
    assert generator_options(asked, architecture, gpu)["scan_unroll"] == 7
    with pytest.raises(ValueError, match="attention is 'cudnn', but the devices are TPU v5 lite"):
        generator_options(asked, architecture, tpu)


def test_attention_s_kernel_is_for_tpus_and_heads_that_it_takes(monkeypatch, capsys):
    wide, narrow = tiny.dit_config(hidden_size=128), tiny.dit_config(hidden_size=64)
    gpu, tpu = mesh_of("gpu", "NVIDIA H100"), mesh_of("tpu", "TPU v5 lite")
    auto = tiny.config("digits_dit", compute__dtype="bfloat16").compute
    asked = dataclasses.replace(auto, attention="pallas")
    for compute in (auto, asked):
        options = generator_options(compute, wide, tpu)
        assert options == {"attention": "pallas", "shard": HeadsShard(tpu), "scan_unroll": 1}
    exact = dataclasses.replace(auto, dtype="float32")
    assert generator_options(exact, wide, tpu)["attention"] == "xla"
    v4 = mesh_of("tpu", "TPU v4")
    larger = tiny.dit_config(input_size=16, hidden_size=1536, num_heads=24)
    refused = [
        (wide, gpu, "NVIDIA H100"),
        (narrow, tpu, "2 heads of 32"),
        (larger, v4, "256 tokens and 24 heads of 64"),
    ]
    assert generator_options(auto, larger, tpu) == options
    for architecture, mesh, found in refused:
        with pytest.raises(ValueError, match=f"'pallas', a kernel for TPUs, .* found .*{found}"):
            generator_options(asked, architecture, mesh)
    # On the devices that are here it is tried before it is taken.
    monkeypatch.setattr(jax, "local_devices", lambda: [tpu.devices[0]])
    monkeypatch.setattr(models, "kernel_fault", lambda *_: "it differs")
    assert generator_options(auto, wide, tpu) == {"attention": "xla", "scan_unroll": 1}
    assert "kernel is not taken: on TPU v5 lite it differs" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'pallas', but on TPU v5 lite it differs; set it to"):
        generator_options(asked, wide, tpu)


def test_a_sampled_generator_runs_its_blocks_as_the_config_says(generator):
    mesh = make_mesh(devices=jax.devices()[:1])
    compute = tiny.config("digits_dit", compute__scan_unroll=2).compute
    loaded = load_functional(generator, mesh, compute=compute)
    assert nnx.merge(loaded.graphdef, loaded.params).scan_unroll == 2


def test_a_tokenizer_is_in_the_config_s_type_as_in_its_training(tokenizer):
    mesh = make_mesh(devices=jax.devices()[:1])
    config = tiny.config("digits_vavae", compute__dtype="bfloat16")
    trained = make_job(config, mesh).graphdef()
    loaded = load_functional(tokenizer, mesh, compute=config.compute)
    types = [
        {
            module.dtype
            for _, module in nnx.iter_modules(nnx.merge(graphdef, loaded.params))
            if isinstance(module, nnx.Conv)
        }
        for graphdef in (trained, loaded.graphdef)
    ]
    assert types == [{np.dtype("bfloat16")}] * 2
