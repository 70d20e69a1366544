"""The file of samples that --mode=evaluate looks at."""

from etils import epath

from lightningdit_jax.config import Config


def samples_path(config: Config, workdir: str) -> epath.Path:
    """evaluate.samples, or WORKDIR/samples.npz where it is empty.

    Raises FileNotFoundError if it is not there.
    """
    path = epath.Path(config.evaluate.samples or epath.Path(workdir) / "samples.npz")
    if not path.exists():
        raise FileNotFoundError(
            f"no samples at {path}; make them with --mode=sample, or name an .npz file with "
            "--config.evaluate.samples"
        )
    return path
