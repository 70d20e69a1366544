"""A row of the paper's tables: --config=paper:ROW (arXiv 2501.01423).

Each row is a whole recipe, training and sampling; docs/results.md lists the rows with the published
values. Where the paper's text leaves something open, the row says what it takes.

    python main.py --config=configs/paper.py:xl_800ep_cfg --workdir=runs/xl_800ep --mode=sample \
        --config.sample.tokenizer=ckpts/vavae-f16d32-dinov2
"""

import difflib
from typing import Any

from lightningdit_jax.configs import base

STEPS_PER_EPOCH = {256: 5_000, 1024: 1_250}  # as the paper rounds them

# XL/1 on VA-VAE f16d32. The last row samples the same weights as UCGM does (50 steps, two
# velocities each; arXiv 2505.07447).
GUIDED_64: dict[str, Any] = {"sample.cfg_scale": 10.0, "sample.cfg_interval_start": 0.10}
GUIDED_800: dict[str, Any] = {"sample.cfg_scale": 6.7, "sample.cfg_interval_start": 0.125}
LONG: dict[str, Any] = {"train.num_steps": 1_000_000, "flow.uniform_from_step": 600_000}
UNGUIDED: dict[str, Any] = {"sample.cfg_scale": 1.0}
MAIN = {
    "xl_64ep": UNGUIDED,
    "xl_64ep_cfg": GUIDED_64,
    "xl_800ep": LONG | UNGUIDED,
    "xl_800ep_cfg": LONG | GUIDED_800,
    "xl_800ep_ucgm": LONG
    | GUIDED_800
    | {"sample.solver": "ucgm", "sample.num_steps": 51, "sample.timestep_shift": 0.0},
}

# From DiT-XL/2 with rectified flow on the Stable Diffusion VAE to LightningDiT, each row
# on top of the one before; 80 epochs, no guidance, dopri5. DiT itself (19.50) is another
# formulation, with a DDPM loss, and not among them.
SD_VAE = {
    "model.variant": "XL/2",
    "model.input_size": 32,
    "model.in_channels": 4,
    "data.latent_norm": False,
    "data.latent_multiplier": 0.18215,
}
DOPRI5 = UNGUIDED | {"sample.solver": "dopri5", "sample.timestep_shift": 0.0}
VA_VAE = {
    "model.variant": "XL/1",
    "model.input_size": 16,
    "model.in_channels": 32,
    "data.latent_norm": True,
    "data.latent_multiplier": 1.0,
}
LADDER = {
    "ladder_rectified_flow": {
        **SD_VAE,
        **DOPRI5,
        "train.batch_size": 256,
        "train.num_steps": 80 * STEPS_PER_EPOCH[256],
        "optimizer.learning_rate": 1e-4,
        "optimizer.beta2": 0.999,
        "flow.timesteps": "uniform",
        "flow.cosine_weight": 0.0,
        "model.use_swiglu": False,
        "model.use_rmsnorm": False,
        "model.use_rope": False,
    },
    "ladder_batch": {
        "train.batch_size": 1024,
        "train.num_steps": 80 * STEPS_PER_EPOCH[1024],
        "optimizer.learning_rate": 2e-4,
    },
    "ladder_beta2": {"optimizer.beta2": 0.95},
    "ladder_logit_normal": {"flow.timesteps": "logit_normal"},
    "ladder_cosine_loss": {"flow.cosine_weight": 1.0},
    "ladder_swiglu": {"model.use_swiglu": True},
    "ladder_rmsnorm": {"model.use_rmsnorm": True},
    "ladder_rope": {"model.use_rope": True},
    "ladder_vavae": VA_VAE,
}

# What the alignment of the tokenizer does to generators: FID of 10,000 samples of B, L and
# XL. The table does not name the sampler; these rows take 250 Euler steps without guidance.
TOKENIZER_EPOCHS = {"b": 160, "l": 80, "xl": 80}
TOKENIZERS = {
    "f16d16_ldm": 16,
    "f16d16_dinov2": 16,
    "f16d32_ldm": 32,
    "f16d32_mae": 32,
    "f16d32_dinov2": 32,
    "f16d64_ldm": 64,
    "f16d64_mae": 64,
    "f16d64_dinov2": 64,
}


def rows() -> dict[str, dict[str, Any]]:
    """Changes of configs/base.py by row."""
    table = dict(MAIN)
    changes: dict[str, Any] = {}
    for name, step in LADDER.items():
        changes = changes | step
        table[name] = changes
    for tokenizer, channels in TOKENIZERS.items():
        for size, epochs in TOKENIZER_EPOCHS.items():
            table[f"{tokenizer}_{size}"] = UNGUIDED | {
                "model.variant": f"{size.upper()}/1",
                "model.in_channels": channels,
                "train.num_steps": epochs * STEPS_PER_EPOCH[1024],
                "sample.num_samples": 10_000,
                "sample.timestep_shift": 0.0,
            }
    return table


def get_config(row: str = ""):
    """The config of a row. Raises ValueError for a row that is not in the tables."""
    table = rows()
    if row not in table:
        nearest = difflib.get_close_matches(row, table, n=len(table), cutoff=0.0)
        raise ValueError(f"configs/paper.py has no row '{row}'; its rows: {', '.join(nearest)}")
    c = base.get_config()
    for key, value in table[row].items():
        section, _, name = key.partition(".")
        c[section][name] = value
    return c
