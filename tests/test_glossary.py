"""docs/watching.md explains every number of a run, and none that there is not.

tests/test_demo.py asks it of what is really written.
"""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from lightningdit_jax.inference.quality import fid
from lightningdit_jax.inference.quality.metrics import METRICS
from lightningdit_jax.inference.quality.networks import NETWORKS
from lightningdit_jax.metrics_log import TIMED
from lightningdit_jax.models.lpips import LPIPSConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.held_out import INDEX
from lightningdit_jax.training.job import abstract_job, fresh_state
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.repa import SHOWN, abstract_teacher, shown_example
from tests import tiny

DOCUMENT = pathlib.Path(__file__).parent.parent / "docs" / "watching.md"
OF_THE_LOOP = {"step", "nonfinite_steps", "spikes", *TIMED}
FAMILIES = {"valid/TERM", "valid/ema_TERM", "valid/TERM_t0", "eval/NUMBER"}


def tables():
    """Keys of the two tables of the glossary: of records, of evaluation.json."""
    glossary = DOCUMENT.read_text().split("## Glossary")[1]
    found = [re.findall(r"^\| `([^`]+)`", t, re.M) for t in glossary.split("| key |")[1:]]
    assert all(len(keys) == len(set(keys)) for keys in found)
    return [set(keys) for keys in found]


def traced(config):
    """Names of a step's metrics and of its terms on held-out examples; nothing is computed."""
    mesh = make_mesh(devices=jax.devices()[:1])
    job, optimizer = abstract_job(config, mesh), make_optimizer(config.optimizer, 2)
    state = jax.eval_shape(lambda: fresh_state(job, config, optimizer))
    labels = {"labels": ((8,), jnp.int32)}
    if config.kind == "vavae" or config.is_joint:
        side = config.tokenizer.resolution
        shapes = {"images": ((8, side, side, 3), jnp.uint8)} | labels
    else:
        shapes = {"latents": ((8, 8, 4, 4), jnp.float32)} | labels
        if (teacher := abstract_teacher(config, mesh)) is not None:
            shown = shown_example(config, teacher)
            shapes[SHOWN] = ((8, *shown.shape), shown.dtype)
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    step = job.make_step(job.graphdef(), config, optimizer)
    _, metrics = jax.eval_shape(step, state, batch, *job.frozen)
    losses = job.make_held_out(job.graphdef(), config)
    columns = {n: c.astype("float32") for n, c in losses.columns(jnp.arange(8)).items()}
    columns[INDEX] = jnp.arange(8, dtype=jnp.uint32)
    rows = jax.eval_shape(losses.rows, state.params, state, batch | columns, *job.frozen)
    return set(metrics) - {"finite"}, set(rows)


def test_every_number_of_a_generators_training_is_explained():
    metrics, held_out = traced(tiny.config("digits_dit"))
    records, _ = tables()
    assert {"mse", "weight_norm"} <= metrics <= records and records >= OF_THE_LOOP | FAMILIES
    assert held_out <= metrics  # so that TERM is one of them


@pytest.mark.slow  # tracing the whole loss takes ten seconds
def test_every_number_of_a_training_is_explained_and_no_other(monkeypatch, tmp_path):
    tiny.publish(monkeypatch, "lpips", LPIPSConfig(channels=(4, 4, 4, 4, 4)))
    tiny.publish(monkeypatch, "vit", tiny.VIT)
    whole = tiny.config("digits_vavae").changed(
        vae_loss={
            "disc_weight": 0.5,
            "alignment": "vit",
            "perceptual_weight": 1.0,
            "ve_weight": 0.1,
            "magnitude_weight": 1e-6,
        },
        frozen={"lpips": "", "foundation": ""},
    )
    metrics, held_out = traced(whole)
    records, _ = tables()
    tiny.write_features(tiny.write_latents(tmp_path))
    generator = tiny.config(
        "digits_dit",
        data__path=str(tmp_path),
        model__aux_head_depth=1,
        repa__features="cached",
        repa__depth=1,
    )
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    both = generator.changed(
        data={"source": "digits"},
        tokenizer=dataclasses.asdict(whole.tokenizer) | {"ch_mult": (1, 1, 1)},
        vae_loss=dataclasses.asdict(whole.vae_loss),
        frozen={"foundation": vit},
        repa={"features": "computed"},
        repae={"weight": 1.5},
    )
    together, of_both = traced(both)
    assert records - FAMILIES == OF_THE_LOOP | metrics | traced(generator)[0] | together
    assert held_out <= metrics and of_both <= together


@pytest.mark.parametrize("metric", METRICS)
def test_every_number_of_an_evaluation_in_training_is_explained(metric, monkeypatch):
    _, evaluation = tables()
    monkeypatch.setattr(fid, "network_of", str)
    networks = tuple(NETWORKS)
    config = tiny.config("digits_dit", evaluate__inception="i", evaluate__networks=networks)
    names = METRICS[metric].names_of_stream(config)
    of_any = {re.sub("_(" + "|".join(NETWORKS) + ")$", "_NETWORK", name) for name in names}
    assert of_any <= evaluation and (len(of_any) > 5) == (metric == "fid")
