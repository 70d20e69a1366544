"""The file of samples that --mode=evaluate looks at."""

from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json
from lightningdit_jax.config import Config
from lightningdit_jax.data.npz_images import NpzImages


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


def samples_identity(path: epath.Path) -> dict[str, Any]:
    """Where samples lie, and where known what they were made with.

    That is the JSON of --mode=sample beside them, FILE.json of FILE.npz: weights, seed, settings.
    Raises ValueError for one that is damaged, or of other samples than those.
    """
    described = path.with_suffix(".json")
    made_with = None
    if described.exists():
        try:
            made_with = read_json(described)
            checksum = field_of(described, made_with, "runtime", dict, {}).get("arr_0_crc32")
        except ValueError as error:
            raise ValueError(
                f"{error}; it says what {path.name} was made with. Draw the samples again, or "
                "delete it to evaluate them without"
            ) from error
        if checksum is not None and checksum != NpzImages(path).checksum():
            raise ValueError(
                f"{described} is of other samples than {path.name}: their checksums differ. Draw "
                "them again, or delete the JSON to evaluate them without"
            )
    return {"path": str(path), "made_with": made_with}
