"""configs/dit_xl_512.py at a tiny size through main.py: from 4x4 latents to 8x8."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lightningdit_jax.checkpoint import find_checkpoint, ocp, read_meta
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.embeddings import rotary_tables
from lightningdit_jax.tree_paths import named_leaves
from tests import tiny
from tests.training.init_cases import config, planned, write_source
from tests.xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parent.parent.parent


def start(workdir, *arguments):
    command = [sys.executable, "main.py", "--config=configs/dit_xl_512.py", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    options = {"capture_output": True, "text": True, "cwd": ROOT, "env": environment}
    return subprocess.run([*command, *arguments], timeout=300, **options)


@pytest.mark.slow
def test_a_generator_of_larger_latents_begins_from_the_smaller(tmp_path):
    """At rate 0 its weights are the source's to the bit, but for the table of positions."""
    small = config(model__input_size=4)
    scaling = LatentScaling(np.arange(8), np.full(8, 3), 0.5)
    path, arrays = write_source(tmp_path / "source", small, latents=scaling.to_meta())
    latents = tiny.write_latents(tmp_path / "latents", size=8)
    changes = {
        f"model__{name}": getattr(small.model, name)
        for name in ("variant", "depth", "hidden_size", "num_heads", "in_channels", "num_classes")
    } | {
        "model__input_size": 8,
        "data__path": latents,
        "optimizer__learning_rate": 0,
        "train__num_steps": 1,
        "train__checkpoint_every_steps": 1,
    }
    given = tiny.flags(**changes)
    refused = start(tmp_path / "w", *given)
    assert refused.returncode == 2 and "config.train.init is empty" in refused.stderr
    ended = start(tmp_path / "w", *given, f"--config.train.init={path}")
    assert ended.returncode == 0, ended.stderr
    assert "fresh        pos_embed  computed, for a grid of 8x8" in ended.stdout
    found = find_checkpoint(str(tmp_path / "w"))
    assert LatentScaling.from_meta(read_meta(found)["latents"]) == scaling
    params = dict(named_leaves(ocp.StandardCheckpointer().restore(found / "params")))
    old = dict(named_leaves(arrays["ema"]))
    assert params.keys() == old.keys()
    table, small_table = (p.pop("pos_embed").reshape(s, s, -1) for p, s in ((params, 8), (old, 4)))
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, old[name], err_msg=name)
    # Positions are counted, not stretched: the old ones lie at the upper left, in both tables.
    np.testing.assert_array_equal(table[:4, :4], small_table)
    assert len(np.unique(table.reshape(64, -1), axis=0)) == 64
    for new, before in zip(rotary_tables(8, 8), rotary_tables(4, 8)):
        np.testing.assert_array_equal(new.reshape(8, 8, 8)[:4, :4], before.reshape(4, 4, 8))


def test_a_tokenizer_of_larger_images_takes_every_array(tmp_path):
    """Where its attention stands at the same level, whose side is twice as long."""

    def tokenizer(side, **changes):
        names = ("tokenizer__encoder_attn_resolutions", "tokenizer__decoder_attn_resolutions")
        changes |= dict.fromkeys(names, (side // 2,))
        return tiny.config("digits_vavae", tokenizer__resolution=side, **changes)

    path, _ = write_source(tmp_path / "source", tokenizer(16))
    leaves = planned(tokenizer(32, train__init=path)).leaves
    assert any("attn" in leaf.name for leaf in leaves)
    assert {leaf.fate for leaf in leaves} == {"taken"}
