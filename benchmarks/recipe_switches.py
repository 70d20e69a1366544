"""The switches that benchmarks/recipes.py tries, beside the recipe that each is compared with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lightningdit_jax.config import Config

Changes = Mapping[str, Mapping[str, Any]]
BASELINE = "baseline"
ADAMW = "adamw"


@dataclasses.dataclass(frozen=True)
class Switch:
    """What a row of the study changes of the baseline: sections of the config and their keys.

    part: of the recipe, of which a combination takes one switch. What changes `sample` alone is
    sampled from the baseline's generators.
    """

    name: str
    part: str
    changes: Changes

    def of(self, baseline: Config) -> Config:
        """The baseline with it."""
        return baseline.changed(**self.changes)

    @property
    def optimizer(self) -> str:
        """Whose rate it is trained at."""
        return self.changes.get("optimizer", {}).get("name", ADAMW)

    @property
    def trains(self) -> bool:
        """Whether its generators are others than the baseline's."""
        return bool(self.changes.keys() - {"sample"})


def _repa(**keys: Any) -> Changes:
    return {"repa": {"features": "cached", "depth": 1, **keys}}


_IREPA = {"projector": "conv", "spatial_norm": "zscore", "weight": 1.0}
_HEAD = {"aux_head_depth": 1}
# Widths of averages that all generators have, for rows that are sampled from them.
SIGMAS = (0.05, 0.1, 0.2)
SWITCHES = (
    # Sampling alone.
    Switch("no guidance", "guidance", {"sample": {"cfg_scale": 1.0}}),
    Switch("guidance 2 instead of 1.5", "guidance", {"sample": {"cfg_scale": 2.0}}),
    Switch("guidance from t = 0.1 on", "guidance", {"sample": {"cfg_interval_start": 0.1}}),
    Switch("guidance, linear schedule", "guidance", {"sample": {"cfg_schedule": "linear"}}),
    Switch("APG, eta 0", "guidance", {"sample": {"apg_eta": 0.0}}),
    Switch(
        "CFG-Zero*",
        "guidance",
        {"sample": {"cfg_optimized_scale": True, "cfg_zero_init_steps": 1}},
    ),
    Switch("sampling shift 0.3, as released", "shift", {"sample": {"timestep_shift": 0.3}}),
    *(Switch(f"EMA of width {s}", "average", {"sample": {"ema_sigma": s}}) for s in SIGMAS),
    Switch("no average", "average", {"sample": {"use_ema": False}}),
    # Training.
    Switch("Muon", "optimizer", {"optimizer": {"name": "muon"}}),
    Switch("rate falls linearly", "schedule", {"optimizer": {"schedule": "linear"}}),
    Switch("REPA", "alignment", _repa(projector_dim=128)),
    Switch("second head, as trained", "second head", {"model": _HEAD}),
    Switch(
        "second head, internal guidance 1.4",
        "guidance",
        {"model": _HEAD, "sample": {"ig_scale": 1.4}},
    ),
    Switch(
        "internal guidance 1.4 alone",
        "guidance",
        {"model": _HEAD, "sample": {"ig_scale": 1.4, "cfg_scale": 1.0}},
    ),
    Switch(
        "data predicted, loss of velocity",
        "prediction",
        {"flow": {"prediction": "data", "loss_weight": "velocity"}},
    ),
    Switch(
        "shift by dimension, in both",
        "shift",
        {"flow": {"timestep_shift": "dimension"}, "sample": {"timestep_shift": "dimension"}},
    ),
    Switch("uniform times", "times", {"flow": {"timesteps": "uniform"}}),
    Switch("without the cosine loss", "cosine loss", {"flow": {"cosine_weight": 0.0}}),
    Switch("Muon of all matrices", "optimizer", {"optimizer": {"name": "muon_all"}}),
    Switch("iREPA", "alignment", _repa(**_IREPA)),
    Switch(
        "rate falls in the last fifth",
        "schedule",
        {"optimizer": {"schedule": "trapezoid", "decay_steps": 80}},
    ),
    Switch(
        "noise predicted, loss of velocity",
        "prediction",
        {"flow": {"prediction": "noise", "loss_weight": "velocity"}},
    ),
    Switch("without rotary positions", "rope", {"model": {"use_rope": False}}),
    Switch("rate falls as a cosine", "schedule", {"optimizer": {"schedule": "cosine"}}),
)
# Parts that no run has both of: Muon knows no projector.
APART = {"optimizer", "alignment"}


def combined(switches: Sequence[Switch], gains: Mapping[str, float]) -> Switch | None:
    """Of each part the switch of the largest gain, all in one; None where none gains.

    gains: by name, of those that help. Of parts that do not go together the larger gain stays.
    """
    best: dict[str, Switch] = {}
    for switch in sorted(switches, key=lambda s: gains.get(s.name, 0.0)):
        if switch.name in gains:
            best[switch.part] = switch
    if best.keys() >= APART:
        del best[min(APART, key=lambda part: gains[best[part].name])]
    changes: dict[str, dict[str, Any]] = {}
    for switch in best.values():
        for section, keys in switch.changes.items():
            changes.setdefault(section, {}).update(keys)
    names = " + ".join(s.name for s in switches if s in best.values())
    return Switch(names, "all", changes) if best else None
