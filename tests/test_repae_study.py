"""The study of REPA-E: what its rows differ in, and that what it trains is what main.py trains."""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from benchmarks import repae_runs
from benchmarks.recipes import baseline_of
from benchmarks.repae_study import (
    FRESH,
    FROZEN,
    OWN_LOSS,
    PSNR,
    REPA,
    REPAE,
    configs_of,
    pairs_table,
    rows_table,
)
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.training.run import train
from tests import tiny
from tests.training.test_repae import config


@pytest.fixture(scope="module")
def rows():
    options = {"demo": pathlib.Path("demo"), "output": pathlib.Path("out")}
    options = argparse.Namespace(**options, steps=400, samples=200)
    return configs_of(baseline_of(options), options.demo)


def differing(a, b):
    """Names of the sections that two configs differ in."""
    values = ((f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return {name for name, ours, theirs in values if ours != theirs}


def test_rows_differ_in_what_they_are_named_for(rows):
    assert {name for name, row in rows.items() if row.is_joint} == {OWN_LOSS, REPAE, FRESH}
    assert differing(rows[FROZEN], rows[REPA]) == {"repa", "frozen"}
    of_images = {"data", "repae", "tokenizer", "discriminator", "vae_loss", "stages", "optimizer"}
    assert differing(rows[REPA], rows[REPAE]) == of_images
    own, fresh = ({"weight": rows[OWN_LOSS].repae.weight}, {"init": ""})
    assert rows[REPAE].changed(repae=own) == rows[OWN_LOSS]
    assert rows[REPAE].changed(repae=fresh) == rows[FRESH] and rows[REPAE].repae.init
    optimizer = rows[REPAE].optimizer
    for factor in optimizer.rate_factors:
        assert optimizer.learning_rate * float(factor.partition("=")[2]) == pytest.approx(1e-3)


def runs_of(fids, psnr):
    """A row whose training seeds have these distances, by two seeds of sampling around each."""
    runs = {}
    for seed, fid in enumerate(fids):
        numbers = {
            str(by): {"digits_fid": fid + 0.2 * by - 0.1, "recognised_share": 0.5} for by in (0, 1)
        }
        costs = {"step_flops": 2e9, "step_seconds": 0.05}
        runs[str(seed)] = {"numbers": numbers, PSNR: psnr + seed, **costs}
    return runs


def test_tables_have_the_mean_of_each_row_and_the_paired_differences():
    base = [3.0, 1.0, 2.0, 5.0, 4.0]
    lower = [x - d for x, d in zip(base, (0.31, 0.29, 0.3, 0.32, 0.28))]
    rows = {name: runs_of(base, 18.0) for name in (FROZEN, REPA, OWN_LOSS, FRESH)}
    rows[REPAE] = runs_of(lower, 20.0)
    of_row = next(line for line in rows_table(rows).splitlines() if line.startswith("| REPA-E |"))
    assert of_row.startswith("| REPA-E | 2 | 50 | 2.700 ± ") and "| 22.000 ± 1.963 |" in of_row
    pairs = pairs_table(rows).splitlines()[2:]
    assert [line.count("better") for line in pairs] == [0, 0, 1, 1, 1, 0]
    cells = "-0.300 ± 0.020 **better** | +0.000 ± 0.000 | +2.000 ± 0.000"
    assert f"| REPA-E less frozen tokenizer | {cells} |" in pairs


@pytest.mark.slow
def test_runs_are_those_of_main(tmp_path):
    """Seed and weight are arguments of one program there, and constants here."""
    vit = tiny.write_network(tmp_path / "vit", ViT, tiny.VIT, "vit")
    rate = {"optimizer__warmup_steps": 0, "optimizer__learning_rate": 0.01}
    base = config(frozen__foundation=vit, train__num_steps=3, train__log_every_steps=1, **rate)
    ldj.save(str(tmp_path / "vae"), VAVAE(tokenizer_config(base), rngs=nnx.Rngs(5)))
    for seed, weight in ((7, 1.5), (8, 0.2)):
        one = base.changed(repae={"weight": weight, "init": str(tmp_path / "vae")})
        found = repae_runs.train(one, seed)
        folder = tmp_path / f"run_{seed}"
        train(dataclasses.replace(one, seed=seed), str(folder))
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for name in ("loss", "repa_loss", "align_loss", "tokenizer_loss"):
            theirs = [record[name] for record in records if name in record]
            np.testing.assert_allclose(found.records[name], theirs, rtol=2e-3, atol=2e-3)
    scaling = repae_runs.keep_tokenizer(one, found.state, str(tmp_path / "kept"))
    assert ldj.load(str(tmp_path / "kept")).latent_scaling == scaling
