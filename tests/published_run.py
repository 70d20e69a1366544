"""A run of a tiny generator as training leaves it, to be published."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image

from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.checkpoint import save_checkpoint
from tests import tiny

STEP = 6
SECRET = "/home/somebody/data"
ARCHITECTURE = tiny.dit_config()


def weights():
    """Weights and two averages, by item."""
    rng = np.random.default_rng(0)
    _, shapes = abstract_model("lightningdit", ARCHITECTURE)
    return {
        item: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
        for item in ("params", "ema", "ema_0.5")
    }


def meta():
    """What the checkpoints of a run say of it."""
    config = tiny.config(
        "digits_dit", data__path=f"{SECRET}/latents", optimizer__learning_rate=3e-4
    )
    said = {
        "format_version": 1,
        "kind": "lightningdit",
        "architecture": dataclasses.asdict(ARCHITECTURE),
        "step": STEP,
        "flow": {"path": "linear", "prediction": "velocity"},
        "latents": {"mean": [0.5] * 8, "std": [2.0] * 8, "multiplier": 1.0},
        "class_names": [f"digit | {n}" for n in range(10)],
        "config": config.to_dict(),
        "history": [
            {"step": 4, "key": "optimizer.learning_rate", "from": 2e-4, "to": 3e-4},
            {"step": 4, "key": "data.path", "from": f"{SECRET}/old", "to": f"{SECRET}/latents"},
        ],
        "tokenizer": f"{SECRET}/vavae",
    }
    return json.loads(json.dumps(said))


def write_run(folder):
    """The workdir, with its newest checkpoint, an evaluation and a picture; returns its weights."""
    items = weights()
    checkpoint = folder / "checkpoints" / str(STEP)
    save_checkpoint(str(checkpoint), items, {"meta": meta()})
    of = {"samples": {"made_with": {"weights": made_by(items["ema"]), "num_steps": 50}}}
    write_json(folder / "evaluation.json", {"fid": 12.5, "of": of})
    rows = [
        {
            "settings": {"solver": "euler", "cfg_scale": scale, **made_by(items["ema"])},
            "numbers": {"fid": 10 + scale},
        }
        for scale in (1.5, 2.5)
    ]
    other = {"settings": {"cfg_scale": 9.5, **made_by(items["params"])}, "numbers": {"fid": 99.0}}
    write_json(folder / "sweep.json", [*rows, other])
    records = [{"step": step, "loss": 1.0, "valid/ema_mse": step / 8} for step in (4, STEP)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    (folder / "pictures").mkdir()
    for step in (2, 4, 8):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(folder / "pictures" / f"{step}.png")
    return items


def made_by(params):
    """Which generator made something, as samples and sweeps say it."""
    return {"generator": {"path": "runs/x", "fingerprint": weights_fingerprint(params)}}
