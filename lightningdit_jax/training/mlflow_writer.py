"""MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the like are its own settings."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightningdit_jax.training.tracked_run import TrackedRun


class MlflowWriter:
    """A row of WRITERS. A restart goes on with the run that WORKDIR/mlflow.json names.

    The config is its artifact config.json: parameters of MLflow may not change within a run, and
    ours may.
    """

    def __init__(self, workdir: str, step: int, config: Mapping[str, Any]):
        import mlflow

        self._mlflow, tracked = mlflow, TrackedRun(workdir, "mlflow")
        known = tracked.known()
        if known is None:
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "lightningdit_jax"))
            tracked.keep(mlflow.start_run(run_name=tracked.name).info.run_id)
        else:
            mlflow.start_run(run_id=known)
        mlflow.log_dict(dict(config), "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Writer."""
        self._mlflow.log_metrics(dict(values), step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Writer."""
        self._mlflow.log_image(image, key=name, step=step)

    def close(self) -> None:
        """See Writer."""
        self._mlflow.end_run()
