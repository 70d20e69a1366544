"""Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and the like are its own settings."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightningdit_jax.training.tracked_run import TrackedRun


class WandbWriter:
    """A row of WRITERS. A restart goes on with the run that WORKDIR/wandb.json names.

    Records go by their own `step`: the service's counter of calls only grows, and a run may go
    back. What it had logged of the steps that come again stays beside them.
    """

    def __init__(self, workdir: str, step: int, config: Mapping[str, Any]):
        import wandb

        self._wandb, tracked = wandb, TrackedRun(workdir, "wandb")
        known = tracked.known()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lightningdit_jax"),
            name=os.environ.get("WANDB_NAME", tracked.name),
            dir=None if "://" in workdir else workdir,
            id=known,
            resume="allow",
            config=dict(config),
            # Neither output nor signals of the program are its business.
            settings=wandb.Settings(console="off"),
        )
        if known is None:
            tracked.keep(self._run.id)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Writer."""
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Writer."""
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def close(self) -> None:
        """See Writer."""
        self._run.finish()
